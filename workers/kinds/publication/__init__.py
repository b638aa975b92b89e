"""Publishing a correction."""
