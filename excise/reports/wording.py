"""Gates and comparisons of runs as single lines, for terminals, comments and CI."""

from __future__ import annotations

from collections.abc import Iterator

from excise.names import GateBound, Trend
from excise.reports.gate_run import FigureChange, RunComparison
from excise.reports.gates import GateResult
from excise.reports.text import format_compact

SIGNS = {GateBound.AT_MOST: "≤", GateBound.AT_LEAST: "≥", GateBound.ABOVE: ">"}
"""Sign that is written before a limit."""


def describe_gate(gate: GateResult) -> str:
    """Return one line about a gate: value, interval and limit, or why there is no value."""
    if gate.value is None:
        return f"not measured: {gate.unmeasured or 'no reason was given'}"
    sign = "" if gate.bound is None else f"{SIGNS[gate.bound]} "
    interval = ""
    if gate.ci_low is not None and gate.ci_high is not None:
        interval = f" (95 % {format_compact(gate.ci_low)} … {format_compact(gate.ci_high)})"
    unit = f" {gate.unit}" if gate.unit else ""
    value, limit = format_compact(gate.value), format_compact(gate.limit)
    note = f"; {gate.note}" if gate.note else ""
    return f"value {value}{interval}, limit {sign}{limit}{unit}{note}"


def describe_comparison(comparison: RunComparison) -> Iterator[str]:
    """Yield a line about the earlier run, and one per changed figure, clear changes first."""
    yield f"beside the run on {comparison.model.id}, which ended as {comparison.outcome}:"
    for reason in (comparison.obstacle, comparison.caution):
        if reason:
            yield f"  {reason}"
    moved = list_moved(comparison)
    if not moved and comparison.obstacle is None:
        yield "  no figure moved"
    for change in moved:
        clearly = "clearly " if change.is_clear else ""
        yield f"  {clearly}{change.trend}: {change.name} {describe_values(change)}"


def list_moved(comparison: RunComparison) -> list[FigureChange]:
    """Return the figures that changed: clear changes first, then worse ones."""
    moved = [change for change in comparison.changes if change.trend is not Trend.SAME]
    good = {Trend.BETTER, Trend.NEW}
    return sorted(moved, key=lambda change: (not change.is_clear, change.trend in good))


def describe_values(change: FigureChange) -> str:
    """Return text such as `0.01 → 0.02`, with a dash for a run without the figure."""
    values = (change.earlier, change.now)
    return " → ".join("–" if value is None else format_compact(value) for value in values)
