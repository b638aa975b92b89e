"""Estimates of what jobs need, on the available workers."""
