"""Sentences of a behaviour's neighbourhood, written for this project; each list is dealt out by
purpose: those at even places are what a verdict asks for, the others are for protection."""
