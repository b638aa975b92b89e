"""A run of `excise gate` beside an earlier one: what got better or worse, and what is clear."""

from __future__ import annotations

from typing import Any

import pytest

from excise.names import GateBound, GateOutcome, Trend
from excise.reports.common import ModelIdentity
from excise.reports.gate_run import FigureChange, GateReport
from excise.reports.gates import GateResult
from workers.gates.earlier import NOTHING_IN_COMMON, compare_runs, judge_not_worse


def build_gate(value: float | None, **changes: Any) -> GateResult:
    fields: dict[str, Any] = {
        "name": "kl",
        "sentence": "it stays near",
        "limit": 0.5,
        "value": value,
        "passed": value is not None and value <= 0.5,
        "bound": GateBound.AT_MOST,
    }
    return GateResult(**(fields | changes))


def build_report(*gates: GateResult, **changes: Any) -> GateReport:
    fields: dict[str, Any] = {
        "outcome": GateOutcome.PASSED,
        "model": ModelIdentity(id="candidate", sha256="c" * 64),
        "against": ModelIdentity(id="base", sha256="b" * 64),
        "measure_sha256": "m" * 64,
        "gates": list(gates),
        "not_asked": [],
        "dtype": "float32",
        "seed": 0,
        "versions": {"torch": "2"},
    }
    return GateReport(**(fields | changes))


def only_change(now: GateResult, earlier: GateResult) -> FigureChange:
    (change,) = compare_runs(build_report(now), build_report(earlier)).changes
    return change


@pytest.mark.parametrize(
    ("bound", "now", "trend"),
    [
        (GateBound.AT_MOST, 0.3, Trend.WORSE),
        (GateBound.AT_MOST, 0.1, Trend.BETTER),
        (GateBound.AT_LEAST, 0.3, Trend.BETTER),
        (GateBound.AT_LEAST, 0.1, Trend.WORSE),
        (GateBound.ABOVE, 0.1, Trend.WORSE),
        (GateBound.AT_MOST, 0.2 + 1e-12, Trend.SAME),
    ],
)
def test_better_is_away_from_the_limit(bound: GateBound, now: float, trend: Trend) -> None:
    change = only_change(build_gate(now, bound=bound), build_gate(0.2, bound=bound))
    assert change.trend is trend
    assert change.is_clear is (trend is not Trend.SAME)
    assert (change.earlier, change.now) == (0.2, now)


def test_what_lies_within_chance_is_not_clear() -> None:
    earlier = build_gate(0.2, ci_low=0.1, ci_high=0.3)
    near = only_change(build_gate(0.35, ci_low=0.3, ci_high=0.4), earlier)
    far = only_change(build_gate(0.45, ci_low=0.31, ci_high=0.6), earlier)
    assert (near.trend, near.is_clear) == (Trend.WORSE, False)
    assert (far.trend, far.is_clear) == (Trend.WORSE, True)


def test_what_is_no_longer_measured_is_lost_and_what_is_new_blames_nobody() -> None:
    earlier = build_report(build_gate(0.2), build_gate(0.1, name="perplexity"))
    report = build_report(build_gate(None), build_gate(0.4, name="refusal"))
    comparison = compare_runs(report, earlier)
    trends = {change.name: change.trend for change in comparison.changes}
    assert trends == {"refusal": Trend.NEW, "kl": Trend.LOST, "perplexity": Trend.LOST}
    assert [change.name for change in comparison.clearly_worse] == ["kl", "perplexity"]


def test_the_gate_counts_and_names_what_is_clearly_worse() -> None:
    comparison = compare_runs(build_report(build_gate(0.4)), build_report(build_gate(0.2)))
    gate = judge_not_worse(comparison)
    assert (gate.name, gate.value, gate.limit, gate.is_met) == ("not_worse", 1.0, 0.0, False)
    assert gate.note == "worse: kl"
    better = compare_runs(build_report(build_gate(0.1)), build_report(build_gate(0.2)))
    assert judge_not_worse(better).is_met


def test_a_run_without_figures_says_nothing_of_another() -> None:
    empty = build_report(build_gate(None))
    for now in (build_gate(0.1), build_gate(None)):
        gate = judge_not_worse(compare_runs(build_report(now), empty))
        assert (gate.is_met, gate.value, gate.unmeasured) == (False, None, NOTHING_IN_COMMON)
    partly = build_report(build_gate(None), build_gate(0.1, name="perplexity"))
    more = build_report(build_gate(0.1), build_gate(0.1, name="perplexity"))
    assert judge_not_worse(compare_runs(more, partly)).is_met


@pytest.mark.parametrize(
    "other",
    [{"against": ModelIdentity(id="base", sha256="d" * 64)}, {"dtype": "bfloat16"}],
)
def test_figures_against_something_else_are_not_compared(other: dict[str, Any]) -> None:
    comparison = compare_runs(build_report(build_gate(0.1)), build_report(build_gate(0.2), **other))
    assert comparison.obstacle
    assert comparison.changes == []
    gate = judge_not_worse(comparison)
    assert (gate.is_met, gate.value, gate.unmeasured) == (False, None, comparison.obstacle)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"measure_sha256": "n" * 64}, "other prompts"),
        ({"measure_sha256": None}, "other prompts"),
        ({"versions": {"torch": "3"}}, "other versions"),
    ],
)
def test_what_makes_differences_doubtful_is_said(other: dict[str, Any], words: str) -> None:
    comparison = compare_runs(build_report(build_gate(0.1)), build_report(build_gate(0.2), **other))
    assert words in (comparison.caution or "")
    assert len(comparison.changes) == 1


@pytest.mark.parametrize(
    ("then", "is_doubtful"),
    [({"ads": "1"}, False), ({"ads": "2"}, True), ({}, True), ({"ads": "1", "more": "9"}, False)],
)
def test_a_behaviour_defined_otherwise_makes_its_figures_doubtful(
    then: dict[str, str], is_doubtful: bool
) -> None:
    gate = build_gate(0.2, name="behaviour_share_rise:ads")
    now = {"ads": "1", "new": "3"}
    report = build_report(gate, behaviours_sha256=now)
    found = compare_runs(report, build_report(gate, behaviours_sha256=then)).caution
    words = "the earlier run found ads by another definition, or does not say by which: figures"
    assert (found or "").startswith(words) is is_doubtful
    assert (found is None) is not is_doubtful
    both = build_report(gate, behaviours_sha256={}, versions={"torch": "3"})
    assert "which, and used other versions" in (compare_runs(report, both).caution or "")
