"""Scorers: they measure how much a response shows a behaviour; one module per kind."""
