"""How many components rounds and refinements prune."""

from __future__ import annotations

import math

import pytest

from excise.names import Granularity
from tests.tiny import NEURONS
from tests.unit.workers.correction.cases import build_trial
from workers.correction import amounts
from workers.correction.amounts import (
    MOST_SHARES,
    ListedAmounts,
    OpenAmounts,
    build_amounts,
    find_range,
)
from workers.correction.results import Trial

NEURON, HEAD = Granularity.NEURON, Granularity.HEAD
EVERYTHING = 2 * NEURONS


def tried(amount: int, *, within: bool = True) -> Trial:
    return build_trial(indices={"m0": list(range(amount))}, within=within)


@pytest.mark.parametrize(
    ("last", "use", "expected"),
    [
        (100, 0.9, 100),  # just what is aimed at
        (100, 0.0, 200),  # nothing was used: at most twice as many
        (100, 0.05, 200),
        (100, 0.5, 134),  # √(0.9 / 0.5)
        (100, 1.8, 71),  # √(0.9 / 1.8)
        (100, 50.0, 50),  # at least half as many
        (100, math.inf, 50),
        (1, 50.0, 1),
        (600, 0.0, 1000),  # no more than there are to choose from
        (1000, 0.9, 1000),
    ],
)
def test_the_next_open_amount_is_foretold_to_use_most_of_the_budget(
    last: int, use: float, expected: int
) -> None:
    assert OpenAmounts(1, 1000).choose_next([tried(last)], use) == expected


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([(100, True), (200, False)], 200),  # once is left to the prices
        ([(100, True), (200, False), (200, False)], 141),  # halfway, by ratio
        ([(200, False), (200, False), (100, True)], 141),
        ([(200, False), (180, False), (100, True)], 134),
        ([(200, False), (200, False), (141, True)], 168),
        ([(110, False), (110, False), (100, False)], 200),  # nothing is within: it goes by use
        ([(100, False), (100, False), (100, True)], 200),  # the prices did help
        ([(110, False), (110, False), (100, True)], 105),
        ([(104, False), (104, False), (100, True)], 200),  # as good as what was refused before
        ([(100, True), (200, False), (100, True), (200, False), (200, False)], 141),
        ([(190, True), (200, False), (199, False)], 194),  # not back below what was within
    ],
)
def test_an_amount_refused_again_and_again_is_neared_by_halves(
    trials: list[tuple[int, bool]], expected: int
) -> None:
    past = [tried(amount, within=within) for amount, within in trials]
    use = 0.9 * (past[-1].amount / 200) ** 2  # by which 200 come next
    assert OpenAmounts(1, 1000).choose_next(past, use) == expected
    assert ListedAmounts([50, 200]).choose_next(past, use) == 200


def test_amounts_are_those_that_a_job_lists() -> None:
    assert build_amounts([3, 5, 9], NEURON, EVERYTHING) == ListedAmounts([3, 5, 9])
    assert build_amounts([3, 5, 9], NEURON, EVERYTHING).first == 5
    assert isinstance(build_amounts(None, NEURON, EVERYTHING), OpenAmounts)


def test_an_open_search_begins_with_a_share_of_all_components() -> None:
    # No more than there may be at most: 1.5 % of the tiny model's 96.
    assert build_amounts(None, NEURON, EVERYTHING) == OpenAmounts(first=1, most=1)
    assert round(MOST_SHARES[NEURON] * EVERYTHING) == 1
    assert build_amounts(None, HEAD, 8) == OpenAmounts(first=1, most=1)


def test_the_middle_of_what_served_is_where_it_begins() -> None:
    assert build_amounts(None, NEURON, 46_080) == OpenAmounts(first=92, most=691)


def test_a_range_of_open_amounts_follows_the_model() -> None:
    assert find_range(None, NEURON, EVERYTHING, refines=False) == (1, 1)


def test_a_range_of_open_amounts_spans_what_a_refinement_tries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(MOST_SHARES, NEURON, 1.0)
    monkeypatch.setattr(amounts, "AMOUNT_SPAN", 8)
    assert find_range(None, NEURON, EVERYTHING, refines=True) == (EVERYTHING // 8, EVERYTHING)


def test_a_range_of_listed_amounts_is_theirs_and_wider_where_it_is_refined() -> None:
    assert find_range([5, 9], NEURON, EVERYTHING, refines=False) == (5, 9)
    assert find_range([5, 9], NEURON, EVERYTHING, refines=True) == (2, 18)
    assert find_range([1], NEURON, EVERYTHING, refines=True) == (1, 2)


def test_a_rise_of_the_behaviour_furthest_from_its_wanted_effect_is_a_rise() -> None:
    def attain(*shares: float) -> list[Trial]:
        trials = [tried(100 + place) for place in range(len(shares))]
        return [
            trial.model_copy(update={"attained": (share, 1.5)})
            for trial, share in zip(trials, shares, strict=True)
        ]

    search = OpenAmounts(1, 1000)
    assert search.is_flat(attain(0.5, 0.5, 0.5))
    assert not search.is_flat(attain(0.5, 0.5, 0.6))
    assert search.is_flat(attain(1.0, 1.2, 1.4))  # all that is wanted was attained at once
