"""Checkpoints and scorers, fetched from where they are published, once."""
