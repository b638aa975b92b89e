"""Requests to addresses given by users: checked once, and connected to exactly as checked."""
