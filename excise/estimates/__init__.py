"""Estimates of what a job needs (memory, disk and minutes), from its spec and a few numbers."""
