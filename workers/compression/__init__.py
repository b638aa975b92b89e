"""Compression: the same share of every row of every linear layer removed, by a chosen score."""
