"""What `excise gate` says about a checkpoint: JSON, Markdown and JUnit. Everything is pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.etree import ElementTree

from excise.names import GateBound, GateOutcome, Trend
from excise.reports.gate_run import FigureChange, GateReport, RunComparison
from excise.reports.gates import GateResult
from workers.reports.abilities import build_abilities
from workers.reports.rendering import (
    render_json,
    render_markdown_template,
    require_finite,
)
from workers.reports.text import format_compact, sentence, visible_text

_SIGNS = {GateBound.AT_MOST: "≤", GateBound.AT_LEAST: "≥", GateBound.ABOVE: ">"}


def find_outcome(gates: Sequence[GateResult]) -> GateOutcome:
    """Return `passed` where there are gates, and every one was measured and met."""
    met = [gate.is_met for gate in gates]
    return GateOutcome.PASSED if met and all(met) else GateOutcome.GATES_NOT_MET


def render_gate_json(report: GateReport) -> bytes:
    """The report as JSON; refuses NaN."""
    return render_json(report)


def render_gate_markdown(report: GateReport) -> bytes:
    """The report as GitHub-flavoured Markdown."""
    require_finite(report.model_dump())
    context = {
        "report": report,
        "signs": _SIGNS,
        "abilities": build_abilities(report.abilities),
        "moved": [] if report.comparison is None else list_moved(report.comparison),
        "describe_values": describe_values,
    }
    return render_markdown_template("gate.md.j2", context).encode()


def render_gate_junit(report: GateReport) -> bytes:
    """The report as JUnit XML: a test case a gate, unmeasured ones as errors."""
    errors = [gate for gate in report.gates if gate.value is None]
    failures = [gate for gate in report.gates if gate.value is not None and not gate.passed]
    suite = ElementTree.Element(
        "testsuite",
        name="excise gate",
        tests=str(len(report.gates)),
        failures=str(len(failures)),
        errors=str(len(errors)),
        skipped="0",
    )
    for gate in report.gates:
        suite.append(_build_case(gate))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document + b"\n"


def describe_gate(gate: GateResult) -> str:
    """One line a gate: its value beside its limit with the interval, or why there is none."""
    if gate.value is None:
        return f"not measured: {gate.unmeasured or 'no reason was given'}"
    sign = "" if gate.bound is None else f"{_SIGNS[gate.bound]} "
    interval = ""
    if gate.ci_low is not None and gate.ci_high is not None:
        interval = f" (95 % {format_compact(gate.ci_low)} … {format_compact(gate.ci_high)})"
    unit = f" {gate.unit}" if gate.unit else ""
    value, limit = format_compact(gate.value), format_compact(gate.limit)
    note = f"; {gate.note}" if gate.note else ""
    return f"value {value}{interval}, limit {sign}{limit}{unit}{note}"


def describe_comparison(comparison: RunComparison) -> Iterator[str]:
    """Yield a line about the earlier run, then one for each figure that moved, clear ones first."""
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
    """Return the changes that are any, what is clear first, then what is worse."""
    moved = [change for change in comparison.changes if change.trend is not Trend.SAME]
    good = {Trend.BETTER, Trend.NEW}
    return sorted(moved, key=lambda change: (not change.is_clear, change.trend in good))


def describe_values(change: FigureChange) -> str:
    """`0.01 → 0.02`; a dash where one run has no figure."""
    values = (change.earlier, change.now)
    return " → ".join("–" if value is None else format_compact(value) for value in values)


def _build_case(gate: GateResult) -> ElementTree.Element:
    group = "gate" if gate.group is None else gate.group.value
    case = ElementTree.Element(
        "testcase", classname=f"excise.gate.{group}", name=visible_text(gate.name)
    )
    line = visible_text(describe_gate(gate))
    if gate.value is not None and gate.passed:
        ElementTree.SubElement(case, "system-out").text = line
        return case
    kind = "error" if gate.value is None else "failure"
    found = ElementTree.SubElement(case, kind, message=line, type=kind)
    sentences = [gate.sentence, gate.remedy or ""]
    found.text = visible_text(" ".join(sentence(text) for text in sentences if text))
    return case
