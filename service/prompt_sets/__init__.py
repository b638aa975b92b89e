"""Prompt sets: uploading and reading immutable lists of prompts."""
