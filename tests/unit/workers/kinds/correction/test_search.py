"""What a job's spec makes of its search."""

from __future__ import annotations

from typing import Any

from excise.names import Granularity
from excise.specs.correction import DEFAULT_LINES
from tests.tiny import NEURONS
from tests.unit.workers.correction.cases import build_behaviour
from tests.unit.workers.kinds.correction.correction_inputs import (
    FakeInputs,
    build_prepared,
    build_spec,
)
from workers.correction.amounts import ListedAmounts, OpenAmounts
from workers.correction.results import PreparedCorrection
from workers.correction.search import DEFAULT_ROUNDS, SearchPlan
from workers.kinds.correction import ranges, search

NEURON, HEAD = Granularity.NEURON, Granularity.HEAD
PREPARED: PreparedCorrection = build_prepared().model_copy(
    update={"components": {NEURON: 2 * NEURONS, HEAD: 8}}
)


def build_inputs(*kinds: Granularity, **changes: Any) -> Any:
    spec = build_spec(**changes)
    return FakeInputs((build_behaviour(),), spec, granularities=kinds or (NEURON,))


def plan_of(*kinds: Granularity, **changes: Any) -> SearchPlan:
    return search.build_plan(build_inputs(*kinds, **changes), PREPARED)


def test_amounts_are_those_that_a_job_lists() -> None:
    named = {"attribution": {"granularity": "neuron"}, "search": {"amounts": [3, 5, 9]}}
    plan = plan_of(**named)
    assert plan.amounts == {NEURON: ListedAmounts([3, 5, 9])}
    assert plan.space.amounts == {NEURON: (3, 9)}
    several = {
        "attribution": {"granularity": ["neuron", "head"]},
        "search": {"amounts": {"head": [1, 2]}},
    }
    found = plan_of(NEURON, HEAD, **several).amounts
    assert found[HEAD] == ListedAmounts([1, 2])
    assert isinstance(found[NEURON], OpenAmounts)


def test_what_a_job_does_not_name_has_defaults() -> None:
    plan = plan_of(NEURON, HEAD)
    assert (plan.rounds, plan.refinements, plan.max_rank) == (DEFAULT_ROUNDS, 0, None)
    assert plan.max_lines == DEFAULT_LINES
    assert plan.amounts == {NEURON: OpenAmounts(1, 1), HEAD: OpenAmounts(1, 1)}
    assert plan.space.amounts == {NEURON: (1, 1), HEAD: (1, 1)}
    assert plan.space.layers == 2
    assert plan_of(search={"preset": "thorough"}).refinements == ranges.THOROUGH_TRIALS


def test_a_thorough_job_is_refined_over_a_wider_range() -> None:
    listed: dict[str, Any] = {"attribution": {"granularity": "neuron"}}
    thorough = {"amounts": [5, 9], "preset": "thorough", "trials": 7, "ablations": ["mean"]}
    plan = plan_of(**listed, search=thorough, serving={"max_rank": 2})
    assert plan.space.amounts == {NEURON: (2, 18)}
    assert plan.space.ablations == ("mean",)
    assert (plan.refinements, plan.max_rank, plan.max_lines) == (7, 2, 2)


def test_a_clock_without_a_limit_never_says_that_time_is_up() -> None:
    assert not search._build_clock(None)()
    assert not search._build_clock(1.0)()
    assert search._build_clock(-1.0)()
