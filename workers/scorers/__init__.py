"""Scorers: what tells how much a response shows a behaviour, one module a kind."""
