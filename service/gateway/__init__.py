"""The gateway: OpenAI's completion endpoints in front of the serving pools."""
