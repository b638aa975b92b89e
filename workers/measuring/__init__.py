"""What is measured of a model: text, responses, answers, and with which interval."""
