"""Compression: the same share of weights is removed from every row of every linear layer."""
