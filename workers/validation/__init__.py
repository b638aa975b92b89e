"""Validation: what a correction changed and what it cost, on prompts it never saw."""
