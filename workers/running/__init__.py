"""Leased work of any kind: supervision, the child process, stages and their results."""
