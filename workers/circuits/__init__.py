"""Circuits: the components a task needs, how faithful they are, and checks by patching."""
