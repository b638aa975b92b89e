"""Checks: what a changed model does beside its base, and whether that is within limits."""
