"""Abilities of a model, in slices: probes with a right continuation, generated from a seed."""
