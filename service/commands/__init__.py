"""The commands that run Excise itself or work on its database."""
