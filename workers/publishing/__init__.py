"""Publishing: what a correction becomes so that others can serve it."""
