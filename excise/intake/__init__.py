"""Strict reading of files from users: JSON and YAML documents, prompt sets, checkpoint folders."""
