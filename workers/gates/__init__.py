"""Limits, and whether what was measured keeps within them."""
