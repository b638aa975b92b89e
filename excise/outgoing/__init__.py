"""Requests to addresses that others name: checked once, connected to as checked."""
