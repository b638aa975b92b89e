"""Response uniqueness ratio by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.validation.uniqueness import compute_response_uniqueness


@pytest.mark.parametrize(
    ("response", "ratio"),
    [
        ((), 0.0),
        ((5,), 1.0),
        ((5, 5), 0.5),
        ((1, 2, 3, 4), 1.0),
        ((1, 2, 1, 2, 1, 2, 1, 2), 0.25),
        ((0, 0, 0), 1 / 3),
        ([7, 8, 7], 2 / 3),
    ],
)
def test_unique_tokens_over_tokens(response, ratio: float) -> None:
    assert compute_response_uniqueness(response) == ratio


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_repeating_a_response_lowers_the_ratio(response: list[int]) -> None:
    once = compute_response_uniqueness(response)
    assert 0 < once <= 1
    assert compute_response_uniqueness(response * 2) == pytest.approx(once / 2)
    assert compute_response_uniqueness(response[::-1]) == once
