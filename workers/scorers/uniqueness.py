"""Repetition, measured by the response uniqueness ratio: how little a response repeats itself."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

from excise.names import Direction
from workers.scorers.scorer import Answer


class UniquenessScorer:
    """Scores a response by unique tokens / tokens, in [0, 1]; 0 for an empty response.

    arXiv 2506.13727, Eq. 11, of `list_units`.
    """

    name = "response_uniqueness"
    direction = Direction.HIGHER_IS_BETTER

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """Return the ratio of each answer's tokens."""
        return [
            compute_response_uniqueness(list_units(answer.token_ids, answer.text))
            for answer in answers
        ]


def list_units(response_ids: Sequence[int], text: str | None) -> Sequence[Hashable]:
    """Return what a response is counted in: its tokens, or its characters where those are fewer.

    A vocabulary without a script spells it in bytes, two to four tokens a character of a few
    different ones: sound Thai text looked like a loop then (50 tokens of SmolLM2's: ratio 0.4).
    """
    return text if text and len(text) < len(response_ids) else response_ids


def compute_response_uniqueness(units: Sequence[Hashable]) -> float:
    """Return unique response tokens / response tokens, in [0, 1]; 0 for an empty response.

    arXiv 2506.13727, Eq. 11. `units` are the generated tokens without end or pad; see
    `list_units`.
    """
    if not units:
        return 0.0
    return len(set(units)) / len(units)


def find_repeated_tokens(
    prompt_ids: Sequence[int], response_ids: Sequence[int], text: str | None = None
) -> tuple[bool, ...]:
    """Return for each response token whether it repeats: its bigram occurred earlier in the text.

    These are the tokens that make a response repetitive; what comes before the first of them
    is ordinary text. Where the `text` of the response has fewer characters than tokens, as many
    tokens as two characters take stand in for the bigram.
    """
    length = 2
    if text and len(text) < len(response_ids):
        length = 2 * math.ceil(len(response_ids) / len(text))
    ids = (*prompt_ids, *response_ids)
    runs = [ids[max(0, end - length) : end] for end in range(1, len(ids) + 1)]
    seen: set[tuple[int, ...]] = set()
    repeated = []
    for run in runs:
        repeated.append(run in seen)
        if len(run) == length:
            seen.add(run)
    return tuple(repeated[len(prompt_ids) :])
