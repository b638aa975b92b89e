"""The stages of a correction."""
