"""What a search may use of every limit, and how many components its trials prune."""

from __future__ import annotations

from typing import Any

import pytest

from excise.names import Granularity
from tests.tiny import NEURONS
from tests.unit.workers.correction.cases import build_behaviour
from tests.unit.workers.kinds.correction.correction_inputs import (
    FakeInputs,
    build_prepared,
    build_slice,
    with_spec,
)
from workers.correction.protection import SEARCH_SHARE
from workers.correction.results import PreparedCorrection, SliceDamage
from workers.correction.search import BUDGET_SHARE, ListedAmounts, OpenAmounts
from workers.kinds.correction import search

NEURON, HEAD, WEIGHT = Granularity.NEURON, Granularity.HEAD, Granularity.WEIGHT
EVERYTHING = 2 * NEURONS


def build_inputs(**changes: Any) -> Any:
    return with_spec(FakeInputs((build_behaviour(),)), **changes)


def prepare(neurons: int = EVERYTHING, **changes: Any) -> PreparedCorrection:
    prepared = build_prepared(**changes)
    return prepared.model_copy(update={"components": {NEURON: neurons, HEAD: 8}})


def test_a_search_allows_itself_a_share_of_every_limit() -> None:
    slices = [build_slice("words", nats_rise=0.2, accuracy_fall=0.1), build_slice("lists")]
    budget = search._build_budget(
        build_inputs(budget={"perplexity_increase": 0.05, "kl_mean": 0.01}),
        prepare(protection=slices),
    )
    assert budget.perplexity_increase == pytest.approx(BUDGET_SHARE * 0.05)
    assert budget.kl_mean == pytest.approx(BUDGET_SHARE * 0.01)
    assert list(budget.slices) == ["words", "lists"]
    words = SliceDamage(nats_rise=SEARCH_SHARE * 0.2, accuracy_fall=SEARCH_SHARE * 0.1)
    assert budget.slices["words"] == words


def amounts_of(kind: Granularity, neurons: int = EVERYTHING, **changes: Any) -> Any:
    return search._build_amounts(build_inputs(**changes), prepare(neurons), kind)


def test_amounts_are_those_that_a_job_lists() -> None:
    named = {"attribution": {"granularity": "neuron"}, "search": {"amounts": [3, 5, 9]}}
    assert amounts_of(NEURON, **named) == ListedAmounts([3, 5, 9])
    several = {
        "attribution": {"granularity": ["neuron", "head"]},
        "search": {"amounts": {"head": [1, 2]}},
    }
    assert amounts_of(HEAD, **several) == ListedAmounts([1, 2])
    assert isinstance(amounts_of(NEURON, **several), OpenAmounts)


def test_an_open_search_begins_with_a_share_of_all_components() -> None:
    found = amounts_of(NEURON, neurons=46_080)
    assert found.first == 1  # no more than there may be at most: 1.5 % of the tiny model's 96
    assert found.most == round(search.MOST_SHARES[NEURON] * EVERYTHING) == 1
    tiny = amounts_of(HEAD)
    assert (tiny.first, tiny.most) == (1, 1)


def test_the_middle_of_what_served_is_where_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "find_range", lambda inputs, kind: (1, 10**6))
    assert amounts_of(NEURON, neurons=46_080).first == 92


def test_a_range_of_open_amounts_follows_the_model() -> None:
    low, high = search.find_range(build_inputs(), NEURON)
    assert (low, high) == (1, 1)


def test_a_range_of_open_amounts_spans_what_a_refinement_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(search.MOST_SHARES, NEURON, 1.0)
    monkeypatch.setattr(search, "AMOUNT_SPAN", 8)
    assert search.find_range(build_inputs(), NEURON) == (EVERYTHING // 8, EVERYTHING)


def test_a_range_of_listed_amounts_is_theirs_and_wider_where_it_is_refined() -> None:
    listed = {"attribution": {"granularity": "neuron"}}
    quick = build_inputs(**listed, search={"amounts": [5, 9]})
    assert search.find_range(quick, NEURON) == (5, 9)
    thorough = build_inputs(**listed, search={"amounts": [5, 9], "preset": "thorough"})
    assert search.find_range(thorough, NEURON) == (2, 18)
