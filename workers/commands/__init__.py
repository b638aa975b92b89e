"""The commands that need the worker's packages."""
