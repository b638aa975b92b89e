"""Answers for scorer tests."""

from __future__ import annotations

from workers.scorers.scorer import Answer


def answers(*texts: str) -> list[Answer]:
    """Answers of these texts to a prompt no scorer should look at."""
    return [Answer("the prompt", text, tuple(range(len(text.split())))) for text in texts]
