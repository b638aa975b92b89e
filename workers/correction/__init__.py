"""Correction: the search for how much to prune, under a damage budget."""
