"""Response uniqueness ratio: how little a response repeats itself."""

from __future__ import annotations

from collections.abc import Sequence


def compute_response_uniqueness(response_ids: Sequence[int]) -> float:
    """Return unique response tokens / response tokens, in [0, 1]; 0 for an empty response.

    arXiv 2506.13727, Eq. 11. `response_ids` holds the generated tokens without end or pad.
    """
    if not response_ids:
        return 0.0
    return len(set(response_ids)) / len(response_ids)
