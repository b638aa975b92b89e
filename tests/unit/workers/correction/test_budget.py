"""Limits, their shares, and what a slice that lost too much costs from then on."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from workers.correction.budget import (
    CHEAPER,
    DEARER,
    LEAST_DEAR,
    MOST_DEAR,
    Budget,
    raise_prices,
)
from workers.correction.results import SliceDamage


def lost(nats: float = 0.0, accuracy: float = 0.0) -> SliceDamage:
    return SliceDamage(nats_rise=nats, accuracy_fall=accuracy)


BUDGET = Budget(perplexity_increase=0.05, kl_mean=0.1)
GUARDED = replace(BUDGET, slices={"words": lost(0.05, 0.02), "lists": lost(0.1, 0.04)})


def test_a_share_of_a_budget_shrinks_every_limit() -> None:
    assert BUDGET.scaled(0.5) == Budget(perplexity_increase=0.025, kl_mean=0.05)
    assert GUARDED.scaled(0.5).slices == {"words": lost(0.025, 0.01), "lists": lost(0.05, 0.02)}


def test_the_bound_of_what_other_items_lose_must_keep_to_the_verdicts_limit() -> None:
    budget = Budget(1.0, 1.0, {"words": lost(0.1, 0.05).leave_margin(0.5)})

    def use(nats: float, margin: float) -> float:
        found = SliceDamage(nats_rise=nats, accuracy_fall=0.01, nats_margin=margin)
        return budget.compute_slice_uses({"words": found})["words"]

    assert use(0.04, 0.0) == pytest.approx(0.8)  # of the half that the search may use
    assert use(0.04, 0.03) == pytest.approx(0.8)
    assert use(0.04, 0.06) == pytest.approx(1.0)
    assert use(0.04, 0.08) == pytest.approx(1.2)
    assert use(-0.02, 0.08) == pytest.approx(0.6)
    assert use(-0.10, 0.08) == pytest.approx(0.4)  # by the share of right items
    assert budget.scaled(0.5).slices["words"] == lost(0.05, 0.025).leave_margin(0.5)


def price_of(price: float, use: float) -> float:
    """The next price of a slice's damage; 0 where it has none."""
    budget = Budget(1.0, 1.0, {"words": lost(0.1, 1.0)})
    before = {"words": price} if price else {}
    return raise_prices(before, budget, {"words": lost(0.1 * use)}).get("words", 0.0)


def test_a_slice_beyond_its_limit_becomes_dearer_by_as_much() -> None:
    assert price_of(0.0, 1.5) == pytest.approx(1.5)
    assert price_of(0.3, 1.5) == pytest.approx(1.5)  # from 1 on, however cheap it was
    assert price_of(2.0, 1.5) == pytest.approx(3.0)
    assert price_of(2.0, 40.0) == pytest.approx(2 * DEARER)
    assert price_of(60.0, 3.0) == MOST_DEAR
    assert price_of(2.0, math.inf) == pytest.approx(2 * DEARER)


def test_a_slice_within_its_limit_becomes_cheaper() -> None:
    assert price_of(4.0, 0.8) == pytest.approx(3.2)
    assert price_of(4.0, 0.1) == pytest.approx(4 * CHEAPER)
    assert price_of(4.0, 1.0) == pytest.approx(4.0)
    assert price_of(4.0, -3.0) == pytest.approx(4 * CHEAPER)
    assert price_of(LEAST_DEAR, 0.9) == 0.0
    assert price_of(0.0, 0.9) == 0.0
