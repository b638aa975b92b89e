"""Publishing: the forms in which a correction can be served by other programs."""
