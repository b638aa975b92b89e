"""Nouns after numbers."""

from __future__ import annotations


def count_noun(count: int, noun: str) -> str:
    """Return a number and its noun, in the plural unless the number is 1: "1 head", "2 heads"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
