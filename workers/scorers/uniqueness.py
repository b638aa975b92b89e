"""Repetition: the response uniqueness ratio, how little a response repeats itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from excise.names import Direction
from workers.scorers.scorer import Answer


class UniquenessScorer:
    """Scores a response by unique tokens / tokens, in [0, 1]; 0 for an empty response.

    arXiv 2506.13727, Eq. 11.
    """

    name = "response_uniqueness"
    direction = Direction.HIGHER_IS_BETTER

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """Return the ratio of each answer's `token_ids`."""
        return [compute_response_uniqueness(answer.token_ids) for answer in answers]


def compute_response_uniqueness(response_ids: Sequence[int]) -> float:
    """Return unique response tokens / response tokens, in [0, 1]; 0 for an empty response.

    arXiv 2506.13727, Eq. 11. `response_ids` holds the generated tokens without end or pad.
    """
    if not response_ids:
        return 0.0
    return len(set(response_ids)) / len(response_ids)


def find_repeated_tokens(
    prompt_ids: Sequence[int], response_ids: Sequence[int]
) -> tuple[bool, ...]:
    """Return for each response token whether it repeats: its bigram stood in the text before.

    These are the tokens that make a response repetitive; what comes before the first of them
    is ordinary text.
    """
    seen: set[tuple[int | None, int]] = set(pairwise(prompt_ids))
    repeated = []
    previous = prompt_ids[-1] if prompt_ids else None
    for token in response_ids:
        repeated.append((previous, token) in seen)
        if previous is not None:
            seen.add((previous, token))
        previous = token
    return tuple(repeated)
