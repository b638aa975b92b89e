"""Repetition: the response uniqueness ratio as a scorer."""

from __future__ import annotations

from collections.abc import Sequence

from workers.validation.scorers.scorer import Answer, Direction
from workers.validation.uniqueness import compute_response_uniqueness


class UniquenessScorer:
    """Scores a response by unique tokens / tokens, in [0, 1]; 0 for an empty response.

    arXiv 2506.13727, Eq. 11.
    """

    name = "response_uniqueness"
    direction = Direction.HIGHER_IS_BETTER

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """Return the ratio of each answer's `token_ids`."""
        return [compute_response_uniqueness(answer.token_ids) for answer in answers]
