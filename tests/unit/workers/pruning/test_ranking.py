"""Ranking: best first over the whole model, ties by position, nothing useless."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from excise.names import Granularity
from workers.pruning import ranking, score_stream
from workers.pruning.ranking import rank_components
from workers.pruning.score_stream import NaNScoreError, ScoreError
from workers.pruning.selection import list_indices


def rank(scores: dict[str, list[float]], limit: int = 100) -> list[tuple[str, int]]:
    tensors = {name: torch.tensor(values) for name, values in scores.items()}
    return list(rank_components(tensors, Granularity.NEURON, limit))


def test_modules_compete_with_one_another() -> None:
    scores = {"b": [0.1, 5.0, 0.3], "a": [0.2, 4.0]}
    assert rank(scores) == [("b", 1), ("a", 1), ("b", 2), ("a", 0), ("b", 0)]


def test_equal_scores_keep_the_order_of_modules_and_features() -> None:
    assert rank({"z": [1.0, 1.0], "a": [1.0, 2.0]}) == [("a", 1), ("z", 0), ("z", 1), ("a", 0)]
    many = {"z": [1.0] * 500, "a": [1.0] * 500}
    assert rank(many, 1000) == [(name, index) for name in "za" for index in range(500)]
    assert rank(many, 501) == [("z", index) for index in range(500)] + [("a", 0)]


def test_a_ranking_shows_its_best() -> None:
    few = {"b": torch.tensor([0.1, 5.0]), "a": torch.tensor([4.0])}
    assert repr(rank_components(few, Granularity.HEAD, 2)) == "<Ranking of 2 heads: b[1], a[0]>"
    many = rank_components({"a": torch.arange(1.0, 13.0)}, Granularity.NEURON, 12)
    assert repr(many).startswith("<Ranking of 12 neurons: a[11], a[10], ")
    assert repr(many).endswith(", a[2], 2 more>")


def test_the_limit_cuts_the_tail() -> None:
    assert rank({"a": [1.0, 3.0, 2.0]}, 2) == [("a", 1), ("a", 2)]
    assert rank({"a": [1.0]}, 0) == []


def test_useless_components_are_never_ranked() -> None:
    assert rank({"a": [0.0, -1.0, 1e-30], "b": [-0.0]}) == [("a", 2)]
    assert rank({"a": [0.0, -1.0]}) == []


@pytest.mark.parametrize("broken", [math.inf, -math.inf])
def test_infinite_scores_are_never_ranked(broken: float) -> None:
    assert rank({"a": [broken, 1.0], "b": [2.0, broken]}) == [("b", 0), ("a", 1)]
    assert rank({"a": [broken, 1.0], "b": [2.0, broken]}, 1) == [("b", 0)]


@pytest.mark.parametrize("limit", [0, 1, 10])
def test_nan_is_refused(limit: int) -> None:
    with pytest.raises(NaNScoreError, match="has no rank"):
        rank({"a": [1.0, 2.0], "b": [2.0, math.nan]}, limit)


def test_modules_of_unequal_size_and_an_empty_one() -> None:
    scores = {"a": [1.0], "empty": [], "b": [3.0, 2.0]}
    assert rank(scores) == [("b", 0), ("b", 1), ("a", 0)]
    assert rank({}) == []
    assert rank({"empty": []}) == []


def test_matrices_are_ranked_by_their_flat_index() -> None:
    scores = {"a": torch.tensor([[1.0, 4.0], [3.0, 2.0]])}
    ranked = rank_components(scores, Granularity.WEIGHT, 3)
    assert list(ranked) == [("a", 1), ("a", 2), ("a", 3)]
    assert ranked.granularity is Granularity.WEIGHT
    across = rank_components({"a": scores["a"].t()}, Granularity.WEIGHT, 2)
    assert list(across) == [("a", 2), ("a", 1)]


def test_ranking_leaves_the_scores_alone() -> None:
    scores = {"a": torch.tensor([math.inf, 1.0])}
    rank_components(scores, Granularity.NEURON, 2)
    assert scores["a"].tolist() == [math.inf, 1.0]


def test_slices_of_a_ranking_are_selections() -> None:
    tensors = {"b": torch.tensor([0.1, 5.0, 0.3]), "a": torch.tensor([0.2, 4.0])}
    ranked = rank_components(tensors, Granularity.HEAD, 100)
    assert len(ranked) == 5
    assert list_indices(ranked.top(3)) == {"a": [1], "b": [1, 2]}
    assert list_indices(ranked.top(99)) == {"a": [0, 1], "b": [0, 1, 2]}
    assert list_indices(ranked.top(0)) == {}
    assert list_indices(ranked.slice(2, 4)) == {"a": [0], "b": [2]}
    assert ranked.top(1).granularity is Granularity.HEAD


def test_a_cap_leaves_the_best_of_every_module() -> None:
    tensors = {"b": torch.tensor([0.1, 5.0, 0.3, 2.0]), "a": torch.tensor([0.2, 4.0, 1.0])}
    ranked = rank_components(tensors, Granularity.NEURON, 100)
    capped = ranked.cap(2)
    assert list(capped) == [("b", 1), ("a", 1), ("b", 3), ("a", 2)]
    assert list_indices(capped.top(3)) == {"a": [1], "b": [1, 3]}
    assert capped.granularity is Granularity.NEURON
    assert list(ranked.cap(1)) == [("b", 1), ("a", 1)]
    assert list(ranked.cap(4)) == list(ranked)
    assert list(ranked.cap(0)) == []
    assert len(rank_components({}, Granularity.NEURON, 5).cap(2)) == 0


@given(
    st.dictionaries(
        st.sampled_from("abcd"),
        st.lists(
            st.floats(width=32, allow_nan=False, allow_subnormal=False), min_size=1, max_size=8
        ),
        min_size=1,
    ),
    st.integers(0, 20),
)
def test_agrees_with_sorting_in_python(scores: dict[str, list[float]], limit: int) -> None:
    useful = sorted(
        (-value, place, index, name)
        for place, (name, values) in enumerate(scores.items())
        for index, value in enumerate(values)
        if math.isfinite(value) and value > 0
    )
    expected = [(name, index) for _, _, index, name in useful]
    assert rank(scores, limit) == expected[:limit]


def rank_slowly(scores: dict[str, torch.Tensor], limit: int) -> list[tuple[str, int]]:
    """Every useful component sorted, best first, the earlier of equals first."""
    found = [
        (-value, owner, index)
        for owner, values in enumerate(scores.values())
        for index, value in enumerate(values.flatten().tolist())
        if 0 < value < math.inf
    ]
    names = list(scores)
    return [(names[owner], index) for _, owner, index in sorted(found)[:limit]]


@pytest.mark.parametrize("order", ["ascending", "descending", "drawn", "equal", "few values"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_surplus_is_dropped_on_the_way(monkeypatch, order: str, dtype: torch.dtype) -> None:
    monkeypatch.setattr(ranking, "SPARE", 3)
    monkeypatch.setattr(score_stream, "CHUNK_SIZE", 16)
    values = torch.randn(200, generator=torch.Generator().manual_seed(3), dtype=dtype)
    values = {
        "ascending": values.sort().values,
        "descending": values.sort(descending=True).values,
        "drawn": values,
        "equal": torch.ones_like(values),
        "few values": values.round(),
    }[order]
    values[[7, 150]] = math.inf
    scores = {"b": values[:90].view(9, 10), "a": values[90:]}
    for limit in (1, 5, 17, 199):
        ranked = rank_components(scores, Granularity.WEIGHT, limit)
        assert list(ranked) == rank_slowly(scores, limit)


def test_scores_of_several_dtypes_are_refused() -> None:
    scores = {"a": torch.ones(2), "b": torch.ones(2, dtype=torch.float64)}
    with pytest.raises(ScoreError, match=r"torch.float32, torch.float64.*convert"):
        rank_components(scores, Granularity.NEURON, 1)


def test_scores_are_read_once() -> None:
    reads: list[str] = []

    def load(name: str) -> torch.Tensor:
        reads.append(name)
        return torch.rand(5)

    rank_components([(name, partial(load, name)) for name in "ab"], Granularity.NEURON, 3)
    assert reads == ["a", "b"]
