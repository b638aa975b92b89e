"""A loaded model: its files, its tokens, what it says."""
