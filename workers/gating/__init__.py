"""Validation alone between two checkpoints: `excise gate`, and gates of a spec made measurable."""
