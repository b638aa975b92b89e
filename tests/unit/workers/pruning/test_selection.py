"""Selections: exactly the share asked for, exactly what a full stable sort would choose."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import accumulate

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from excise.names import Granularity, Scope
from tests.tiny import select_components as build_selection
from workers.domain import Selection
from workers.pruning import cutoff, score_stream
from workers.pruning.score_stream import NaNScoreError, ScoreError
from workers.pruning.selection import (
    count_by_module,
    count_share,
    draw_random_selection,
    list_indices,
    select_components,
    select_n_of_m,
    stream_selection,
)

NEURON, WEIGHT = Granularity.NEURON, Granularity.WEIGHT
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
SETTINGS = {
    "as they are": {},
    "sampled": {"SMALL": 0, "SAMPLE_STEP": 3, "CHUNK_SIZE": 7},
    "sample thinned": {"SMALL": 0, "SAMPLE_STEP": 1, "SAMPLE_LIMIT": 4, "CHUNK_SIZE": 5},
    "narrow bracket": {"SMALL": 0, "SAMPLE_STEP": 2, "DEVIATIONS": 0.0, "CHUNK_SIZE": 64},
    "histogram": {"SMALL": 0, "CAPACITY": 0, "SAMPLE_STEP": 4},
    "coarse histogram": {"SMALL": 0, "CAPACITY": 1, "BIN_BITS": 2, "DEVIATIONS": 0.0},
}


@pytest.fixture(params=SETTINGS.values(), ids=SETTINGS)
def _settings(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    apply_settings(monkeypatch, request.param)


def apply_settings(monkeypatch: pytest.MonkeyPatch, settings: dict[str, float]) -> None:
    """Bounds so small that every way through the algorithm is taken."""
    for name, value in settings.items():
        monkeypatch.setattr(score_stream if name == "CHUNK_SIZE" else cutoff, name, value)


def select_naively(values: torch.Tensor, count: int, smallest: bool) -> list[int]:
    """The first `count` of a full stable sort, in order of position."""
    order = torch.sort(values.double(), descending=not smallest, stable=True).indices
    return sorted(order[:count].tolist())


def assert_is_global_selection(
    scores: dict[str, torch.Tensor], share: float, smallest: bool
) -> None:
    flat = torch.cat([values.flatten() for values in scores.values()])
    count = count_share(len(flat), share)
    found = select_components(scores, NEURON, Scope.GLOBAL, share, smallest=smallest)
    assert len(found) == count
    starts = accumulate((values.numel() for values in scores.values()), initial=0)
    places = dict(zip(scores, starts, strict=False))
    flat_found = [places[name] + i for name, found in list_indices(found).items() for i in found]
    assert sorted(flat_found) == select_naively(flat, count, smallest)


def draw_scores(seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Normal numbers; every third seed rounded (ties), every second with zeros and infinities."""
    generator = torch.Generator().manual_seed(seed)
    values = (torch.randn(301, generator=generator) * 3).to(dtype)
    if seed % 3 == 0:
        values = values.round()
    if seed % 2 == 0:
        values[::5], values[1::7], values[2::9] = torch.inf, -0.0, -torch.inf
        values[3::11] = 0.0
    return values


@pytest.mark.usefixtures("_settings")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smallest", [False, True])
def test_global_selection_is_that_of_a_full_sort(dtype: torch.dtype, smallest: bool) -> None:
    for seed in range(3):
        values = draw_scores(seed, dtype)
        scores = {"b": values[:100], "empty": values[:0], "a": values[100:300].view(20, 10)}
        for share in (0, 0.003, 0.2, 0.5, 0.997, 1):
            assert_is_global_selection(scores, share, smallest)


FEW_VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, math.inf, -math.inf, 5e-324, -1e-300])
FLOATS = FEW_VALUES | st.floats(allow_nan=False)


@given(
    st.dictionaries(st.sampled_from("abcd"), st.lists(FLOATS, min_size=1, max_size=12), min_size=1),
    st.floats(0, 1),
    st.booleans(),
    st.sampled_from(list(SETTINGS)),
)
def test_any_doubles_are_selected_as_by_a_full_sort(
    scores: dict[str, list[float]], share: float, smallest: bool, settings: str
) -> None:
    tensors = {name: torch.tensor(v, dtype=torch.float64) for name, v in scores.items()}
    with pytest.MonkeyPatch.context() as monkeypatch:
        apply_settings(monkeypatch, SETTINGS[settings] | {"BIN_BITS": 6})
        assert_is_global_selection(tensors, share, smallest)


@pytest.mark.usefixtures("_settings")
def test_equal_scores_go_by_position() -> None:
    scores = {"b": torch.full((50,), 2.0), "a": torch.full((50,), 2.0)}
    for smallest in (False, True):
        found = select_components(scores, NEURON, Scope.GLOBAL, 0.7, smallest=smallest)
        assert list_indices(found) == {"a": list(range(20)), "b": list(range(50))}


def test_a_large_input_is_sampled_and_exact() -> None:
    values = torch.randn(300_000, generator=torch.Generator().manual_seed(0))
    assert_is_global_selection({"a": values[:123_457], "b": values[123_457:]}, 0.01, False)
    zeros = torch.where(values > 1, values, torch.zeros(()))
    assert_is_global_selection({"a": zeros}, 0.5, False)
    assert_is_global_selection({"a": zeros}, 0.85, True)


def count_passes(values: torch.Tensor, share: float) -> int:
    passes = 0

    class Counted:
        def __iter__(self) -> Iterator[tuple[str, object]]:
            nonlocal passes
            passes += 1
            return iter([("a", lambda: values)])

    select_components(Counted(), NEURON, Scope.GLOBAL, share)
    return passes


def test_the_number_of_passes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    assert count_passes(values, 0.1) == 3
    monkeypatch.setattr(cutoff, "CAPACITY", 1)  # nothing may be kept: radix passes only
    assert count_passes(values, 0.1) <= 3 + 2 * 2
    assert count_passes(values.double(), 0.1) <= 3 + 2 * 4
    assert count_passes(values.bfloat16(), 0.1) <= 3 + 2


def test_loaders_are_called_when_their_turn_comes_and_give_the_same() -> None:
    values = {name: torch.randn(40, generator=torch.Generator().manual_seed(3)) for name in "ab"}
    alive: list[str] = []

    def load(name: str) -> torch.Tensor:
        alive.append(name)
        return values[name]

    loaders = [(name, lambda name=name: load(name)) for name in values]
    for scope in (Scope.GLOBAL, Scope.LAYER):
        one = select_components(loaders, NEURON, scope, 0.3)
        assert list_indices(one) == list_indices(select_components(values, NEURON, scope, 0.3))
    alive.clear()
    stream = stream_selection(loaders, Scope.LAYER, 0.3)
    next(stream)
    assert alive == ["a"]


def test_what_cannot_be_read_twice_is_refused() -> None:
    pairs = (("a", lambda: torch.ones(3)) for _ in range(1))
    with pytest.raises(ScoreError, match="not an iterator"):
        select_components(pairs, NEURON, Scope.GLOBAL, 0.5)


def test_a_module_named_twice_is_refused() -> None:
    pairs = [("a", lambda: torch.ones(3))] * 2
    with pytest.raises(ScoreError, match="given twice"):
        select_components(pairs, NEURON, Scope.GLOBAL, 0.5)


def test_scores_of_other_kinds_are_refused() -> None:
    with pytest.raises(ScoreError, match=r"of a are torch\.int64"):
        select_components({"a": torch.ones(3, dtype=torch.int64)}, NEURON, Scope.LAYER, 0.5)
    mixed = {"a": torch.ones(3), "b": torch.ones(3).double()}
    with pytest.raises(ScoreError, match=r"several dtypes \(torch.float32, torch.float64\)"):
        select_components(mixed, NEURON, Scope.GLOBAL, 0.5)
    assert len(select_components(mixed, NEURON, Scope.LAYER, 1)) == 6


@pytest.mark.usefixtures("_settings")
@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_nan_is_refused_everywhere(scope: Scope, share: float) -> None:
    values = torch.ones(20, 20)
    values[17, 3] = math.nan
    with pytest.raises(NaNScoreError, match="has no rank"):
        select_components({"b": torch.ones(4, 4), "a": values}, WEIGHT, scope, share)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
@pytest.mark.parametrize("scope", list(Scope))
def test_a_share_outside_its_range_is_refused(scope: Scope, share: float) -> None:
    with pytest.raises(ValueError, match="cannot be selected"):
        select_components({"a": torch.ones(2, 2)}, WEIGHT, scope, share)


def test_shares_are_rounded_to_the_nearest() -> None:
    assert [count_share(100, share) for share in (0, 0.29, 0.294, 0.296, 1)] == [0, 29, 29, 30, 100]
    assert [count_share(size, 0.5) for size in (0, 1, 2, 3, 5)] == [0, 0, 1, 2, 2]


@pytest.mark.parametrize("smallest", [False, True])
def test_layer_scope_takes_its_share_of_every_module(smallest: bool) -> None:
    scores = {"b": draw_scores(0, torch.float32), "e": torch.empty(0), "a": torch.arange(10.0)}
    found = select_components(scores, NEURON, Scope.LAYER, 0.4, smallest=smallest)
    assert count_by_module(found) == {"b": 120, "a": 4}
    for name in "ab":
        expected = select_naively(scores[name], len(found.indices[name]), smallest)
        assert found.indices[name].tolist() == expected


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smallest", [False, True])
@pytest.mark.parametrize("chunk", [1, 50, 1 << 20])
def test_row_scope_takes_its_share_of_every_row(
    dtype: torch.dtype, smallest: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.pruning.selection.CHUNK_SIZE", chunk)
    matrix = draw_scores(0, dtype)[:300].view(12, 25)
    for share in (0, 0.1, 0.5, 0.96, 1):
        count = count_share(25, share)
        expected = [
            row * 25 + column
            for row in range(12)
            for column in select_naively(matrix[row], count, smallest)
        ]
        for scores, axis in ((matrix, 0), (matrix.t().contiguous(), 1)):
            found = select_components(
                {"a": scores}, WEIGHT, Scope.ROW, share, smallest=smallest, row_axis={"a": axis}
            )
            indices = list_indices(found).get("a", [])
            if axis == 1:
                indices = sorted(index % 12 * 25 + index // 12 for index in indices)
            assert indices == expected


def test_rows_need_matrices() -> None:
    for scores, axis in ((torch.ones(4), 0), (torch.ones(2, 2), 2)):
        with pytest.raises(ScoreError, match="give 2-D scores"):
            select_components({"a": scores}, WEIGHT, Scope.ROW, 0.5, row_axis=axis)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 4), (0, 4), (4, 4)])
def test_n_of_m_removes_the_smallest_of_every_group(n: int, m: int) -> None:
    matrix = draw_scores(0, torch.float32)[:240].view(10, 24)
    expected = [
        row * 24 + start + column
        for row in range(10)
        for start in range(0, 24, m)
        for column in select_naively(matrix[row, start : start + m], n, smallest=True)
    ]
    found = select_n_of_m({"a": matrix}, n, m)
    assert found.granularity is WEIGHT
    assert list_indices(found).get("a", []) == expected
    across = list_indices(select_n_of_m({"a": matrix.t()}, n, m, row_axis=1)).get("a", [])
    assert sorted(index % 10 * 24 + index // 10 for index in across) == expected


def test_n_of_m_refuses_what_it_cannot_divide() -> None:
    with pytest.raises(ScoreError, match="a has 6 inputs, not a multiple of 4"):
        select_n_of_m({"a": torch.ones(4, 6)}, 2, 4)
    with pytest.raises(ScoreError, match="a has 6 inputs"):
        select_n_of_m({"a": torch.ones(6, 4)}, 2, 4, row_axis=1)
    with pytest.raises(ValueError, match="5 of every 4"):
        select_n_of_m({"a": torch.ones(4, 4)}, 5, 4)
    with pytest.raises(NaNScoreError):
        select_n_of_m({"a": torch.full((4, 4), math.nan)}, 2, 4)


CHOSEN = build_selection({"a": [3, 11], "b": [0, 47]}, NEURON)
SIZES = {"a": 48, "b": 48, "c": 48}


@pytest.mark.parametrize("seed", range(20))
def test_random_controls_match_by_module_and_avoid_the_chosen(seed: int) -> None:
    drawn = draw_random_selection(CHOSEN, SIZES, seed)
    assert drawn.granularity is NEURON
    assert count_by_module(drawn) == {"a": 2, "b": 2}
    for name, indices in list_indices(drawn).items():
        assert indices == sorted(set(indices))
        assert not set(indices) & set(CHOSEN.indices[name].tolist())
        assert all(0 <= index < 48 for index in indices)
    backwards = Selection(NEURON, dict(reversed(CHOSEN.indices.items())))
    assert list_indices(draw_random_selection(backwards, SIZES, seed)) == list_indices(drawn)


def test_random_controls_follow_the_seed_only() -> None:
    state = torch.get_rng_state()
    draws = {str(list_indices(draw_random_selection(CHOSEN, SIZES, seed))) for seed in range(20)}
    assert torch.equal(state, torch.get_rng_state())
    assert len(draws) == 20


def test_random_controls_reach_every_free_component_alike() -> None:
    half = build_selection({"a": list(range(0, 48, 2))}, NEURON)
    drawn = draw_random_selection(half, SIZES, 0)
    assert list_indices(drawn) == {"a": list(range(1, 48, 2))}
    counts = torch.zeros(48)
    for seed in range(3000):  # few of many, and many of few
        counts[draw_random_selection(CHOSEN, SIZES, seed).indices["a"]] += 1
    assert counts[[3, 11]].tolist() == [0, 0]
    others = counts[[index for index in range(48) if index not in (3, 11)]]
    expected = 2 * 3000 / 46
    assert others.min() > expected - 5 * expected**0.5
    assert others.max() < expected + 5 * expected**0.5


def test_random_weights_of_many_are_matched() -> None:
    size = 3_000_000
    chosen = torch.arange(0, 200_000, 2)
    selection = Selection(WEIGHT, {"a": chosen})
    drawn = draw_random_selection(selection, {"a": size}, 0).indices["a"]
    assert len(drawn) == len(chosen)
    assert bool((drawn[1:] > drawn[:-1]).all())
    assert 0 <= int(drawn[0]) <= int(drawn[-1]) < size
    assert not torch.isin(drawn, chosen).any()
    # 3.4 % of the free ones lie between the chosen.
    assert 0.03 < float((drawn < 200_000).float().mean()) < 0.038


def test_too_few_components_for_a_control_is_an_error() -> None:
    chosen = build_selection({"a": list(range(25))}, Granularity.HEAD)
    with pytest.raises(ValueError, match="a has only 23 other heads"):
        draw_random_selection(chosen, SIZES, 0)
