"""Ranking: best first over the whole model, ties by position, nothing useless."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.domain import Component
from workers.pruning.ranking import rank_components


def rank(scores: dict[str, list[float]], limit: int = 100) -> list[tuple[str, int]]:
    tensors = {name: torch.tensor(values) for name, values in scores.items()}
    return [(found.module, found.index) for found in rank_components(tensors, limit)]


def test_modules_compete_with_one_another() -> None:
    scores = {"b": [0.1, 5.0, 0.3], "a": [0.2, 4.0]}
    assert rank(scores) == [("b", 1), ("a", 1), ("b", 2), ("a", 0), ("b", 0)]


def test_equal_scores_keep_the_order_of_modules_and_features() -> None:
    assert rank({"z": [1.0, 1.0], "a": [1.0, 2.0]}) == [("a", 1), ("z", 0), ("z", 1), ("a", 0)]
    many = {"z": [1.0] * 500, "a": [1.0] * 500}
    assert rank(many, 1000) == [(name, index) for name in "za" for index in range(500)]


def test_the_limit_cuts_the_tail() -> None:
    assert rank({"a": [1.0, 3.0, 2.0]}, 2) == [("a", 1), ("a", 2)]
    assert rank({"a": [1.0]}, 0) == []


def test_useless_components_are_never_returned() -> None:
    assert rank({"a": [0.0, -1.0, 1e-30], "b": [-0.0]}) == [("a", 2)]
    assert rank({"a": [0.0, -1.0]}) == []


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_non_finite_scores_are_never_returned(broken: float) -> None:
    assert rank({"a": [broken, 1.0], "b": [2.0, broken]}) == [("b", 0), ("a", 1)]
    assert rank({"a": [broken, 1.0], "b": [2.0, broken]}, 1) == [("b", 0)]


def test_modules_of_unequal_size_and_an_empty_one() -> None:
    scores = {"a": [1.0], "empty": [], "b": [3.0, 2.0]}
    assert rank(scores) == [("b", 0), ("b", 1), ("a", 0)]


def test_ranking_leaves_the_scores_alone() -> None:
    scores = {"a": torch.tensor([math.nan, 1.0])}
    rank_components(scores, 2)
    assert math.isnan(scores["a"][0])


@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.lists(st.floats(width=32, allow_subnormal=False), min_size=1, max_size=8),
        min_size=1,
    ),
    st.integers(0, 20),
)
def test_agrees_with_sorting_in_python(scores: dict[str, list[float]], limit: int) -> None:
    useful = [
        (-value, place, name, index)
        for place, (name, values) in enumerate(scores.items())
        for index, value in enumerate(values)
        if math.isfinite(value) and value > 0
    ]
    expected = tuple(Component(name, index) for _, _, name, index in sorted(useful, key=_by_score))
    tensors = {name: torch.tensor(values) for name, values in scores.items()}
    assert rank_components(tensors, limit) == expected[:limit]


def _by_score(entry: tuple[float, int, str, int]) -> tuple[float, int, int]:
    negative, place, _, index = entry
    return negative, place, index
