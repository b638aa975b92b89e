"""Fetching of checkpoints and scorers from where they are published, once each."""
