"""The kinds of work: thin stages around the engines."""
