"""Excise: what people import to specify, submit, watch and read corrections of language models."""
