"""Comparing a run of `excise gate` with an earlier one: which figures got better or worse.

Both runs judge their checkpoint against the same base, so that their figures are comparable. A
figure is clearly better or worse if the 95 % intervals of the two runs do not overlap. With the
same prompts in both runs this is stricter than a 5 % test, so that candidates are seldom blamed
wrongly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from excise.names import GateBound, Trend
from excise.reports.gate_run import FigureChange, GateReport, RunComparison
from excise.reports.gates import GateResult
from workers.gates.rows import Figure, judge_figure
from workers.gates.table import NOT_WORSE

ROUNDING = 1e-9
"""Smaller differences are ignored: the same figure can differ by rounding on another machine."""

NOTHING_IN_COMMON = (
    "the earlier run measured no figure, so that nothing can be compared: give a baseline whose "
    "gates were measured"
)

NAMED = 6
"""Largest number of figures that the gate's note names; the report lists all. Chosen by hand."""


@dataclass(frozen=True)
class _Figure:
    """A value with its interval, and the direction that is better."""

    value: float
    low: float | None
    high: float | None
    is_lower_better: bool


def compare_runs(report: GateReport, earlier: GateReport) -> RunComparison:
    """Return how every figure changed since the run of `earlier`."""
    obstacle = _find_obstacle(report, earlier)
    return RunComparison(
        model=earlier.model,
        outcome=earlier.outcome,
        obstacle=obstacle,
        caution=None if obstacle else _find_caution(report, earlier),
        changes=[] if obstacle else list(_list_changes(report, earlier)),
    )


def judge_not_worse(comparison: RunComparison) -> GateResult:
    """Return the gate's result: met if no figure is clearly worse.

    It counts as not measured if nothing can be compared.
    """
    obstacle = comparison.obstacle
    if all(change.trend is Trend.NEW for change in comparison.changes):
        obstacle = obstacle or NOTHING_IN_COMMON
    if obstacle is not None:
        return judge_figure(NOT_WORSE, 0.0, Figure(None, unmeasured=obstacle))
    worse = comparison.clearly_worse
    figure = Figure(float(len(worse)), count=len(comparison.changes), note=_name(worse))
    return judge_figure(NOT_WORSE, 0.0, figure)


def _name(worse: Sequence[FigureChange]) -> str | None:
    if not worse:
        return None
    more = f" and {len(worse) - NAMED} more" if len(worse) > NAMED else ""
    return f"worse: {', '.join(change.name for change in worse[:NAMED])}{more}"


def _find_obstacle(report: GateReport, earlier: GateReport) -> str | None:
    if report.against.sha256 != earlier.against.sha256:
        return (
            "the earlier run judged against another checkpoint, with the SHA-256 "
            f"{earlier.against.sha256[:12]}: figures are relative to it and cannot be compared"
        )
    if report.dtype != earlier.dtype:
        return f"the earlier run was computed in {earlier.dtype}: figures cannot be compared"
    return None


def _find_caution(report: GateReport, earlier: GateReport) -> str | None:
    cautions = []
    if earlier.measure_sha256 is None or report.measure_sha256 != earlier.measure_sha256:
        cautions.append("asked other prompts, texts or questions")
    if names := _list_redefined(report, earlier):
        cautions.append(f"found {', '.join(names)} by another definition, or does not say by which")
    if report.versions != earlier.versions:
        cautions.append("used other versions of the program")
    if not cautions:
        return None
    return f"the earlier run {', and '.join(cautions)}: figures may differ by that"


def _list_redefined(report: GateReport, earlier: GateReport) -> list[str]:
    """Return the behaviours with figures of both runs that are not known to mean the same."""
    judged = {gate.name.partition(":")[2] for gate in earlier.gates}
    return [
        name
        for name, sha256 in report.behaviours_sha256.items()
        if name in judged and earlier.behaviours_sha256.get(name) != sha256
    ]


def _list_changes(report: GateReport, earlier: GateReport) -> Iterator[FigureChange]:
    now, before = _list_figures(report), _list_figures(earlier)
    for name in dict.fromkeys((*now, *before)):
        yield _compare(name, now.get(name), before.get(name))


def _list_figures(report: GateReport) -> dict[str, _Figure]:
    """Return name → figure, for all measured ones except `NOT_WORSE`, which is about runs."""
    figures = {
        gate.name: _Figure(
            gate.value, gate.ci_low, gate.ci_high, gate.bound in (GateBound.AT_MOST, None)
        )
        for gate in report.gates
        if gate.value is not None and gate.name != NOT_WORSE.name
    }
    for change in report.abilities:
        low, high = change.accuracy_interval
        rise = change.accuracy_after - change.accuracy_before
        figures[f"ability:{change.name}"] = _Figure(rise, low, high, is_lower_better=False)
    return figures


def _compare(name: str, now: _Figure | None, before: _Figure | None) -> FigureChange:
    if now is None or before is None:
        trend = Trend.LOST if now is None else Trend.NEW
        is_clear = now is None
    else:
        trend = _find_trend(now, before)
        is_clear = trend is not Trend.SAME and not _meet(now, before)
    return FigureChange(
        name=name,
        trend=trend,
        is_clear=is_clear,
        earlier=None if before is None else before.value,
        now=None if now is None else now.value,
    )


def _find_trend(now: _Figure, before: _Figure) -> Trend:
    rise = now.value - before.value
    if abs(rise) <= ROUNDING:
        return Trend.SAME
    return Trend.BETTER if (rise < 0) is now.is_lower_better else Trend.WORSE


def _meet(now: _Figure, before: _Figure) -> bool:
    """Return whether the intervals of two figures overlap; false if one has no interval."""
    if now.low is None or now.high is None or before.low is None or before.high is None:
        return False
    return now.low <= before.high and before.low <= now.high
