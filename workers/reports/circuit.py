"""The report of a circuit job, rendered as Markdown and HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from excise.names import BuiltInTask
from excise.reports.circuit import CircuitCurve, CircuitReport
from workers.reports.charts import Axis, build_axis, layer_of
from workers.reports.gates import build_gate_groups
from workers.reports.rendering import (
    REVERT_COMMAND,
    render_html_template,
    render_markdown_template,
    require_finite,
    write_apply_command,
)

TASK_TITLES: dict[str, str] = {
    BuiltInTask.IOI: "Indirect object identification",
    BuiltInTask.GREATER_THAN: "Greater than",
}
DRAWN_RETENTION = (-1.0, 4.0)
"""Range of retention on the chart; values outside are drawn at its edge. Chosen by hand."""


@dataclass(frozen=True)
class CurveLine:
    """One attributor's curve, ready to be drawn."""

    curve: CircuitCurve
    number: int
    points: list[tuple[float, float]]
    """(x in [0, 1] on a logarithmic axis of the share, retention), sorted by size."""
    chosen: tuple[float, float]


@dataclass(frozen=True)
class CurveChart:
    """Chart of retention against circuit size, for every attributor."""

    lines: list[CurveLine]
    retention_axis: Axis
    ticks: list[tuple[float, float]]
    """(x in [0, 1], share) of the size axis."""
    is_clipped: bool
    """Whether any value lies outside the range drawn."""


def build_curve_chart(curves: Sequence[CircuitCurve]) -> CurveChart | None:
    """Return the curves with their axes and the chosen sizes; None if there are no curves."""
    measured = [point for curve in curves for point in (*curve.points, curve.chosen)]
    if not measured:
        return None
    low = math.log10(min(point.share for point in measured))

    def place(share: float) -> float:
        return (math.log10(share) - low) / -low if low < 0 else 1.0

    def draw(number: int, curve: CircuitCurve) -> CurveLine:
        sizes = {point.share: point.retention for point in (*curve.points, curve.chosen)}
        points = [(place(share), sizes[share]) for share in sorted(sizes)]
        return CurveLine(curve, number, points, (place(curve.chosen.share), curve.chosen.retention))

    least, most = DRAWN_RETENTION
    values = [point.retention for point in measured]
    drawn = [min(most, max(least, value)) for value in values]
    return CurveChart(
        lines=[draw(number, curve) for number, curve in enumerate(curves)],
        retention_axis=build_axis([0.0, 1.0, *drawn]),
        ticks=[(place(10.0**power), 10.0**power) for power in range(math.ceil(low - 1e-9), 1)],
        is_clipped=drawn != values,
    )


def render_circuit_markdown(report: CircuitReport) -> str:
    """Return the report as GitHub-flavoured Markdown, without timings."""
    return render_markdown_template("circuit.md.j2", _context(report))


def render_circuit_html(report: CircuitReport) -> str:
    """Return the report as one HTML page without external resources, scripts and timings."""
    return render_html_template("circuit.html.j2", _context(report))


def _context(report: CircuitReport) -> dict[str, object]:
    require_finite(report.model_dump())
    peak = max((abs(cell) for row in report.heatmap for cell in row.cells), default=0.0)
    return {
        "kind": report.kind,
        "report": report,
        "gate_groups": build_gate_groups(report.gates),
        "task_title": TASK_TITLES.get(report.task.name, report.task.name),
        "chart": build_curve_chart(report.curves),
        "peak": peak or 1.0,
        "layer_of": layer_of,
        "apply_command": write_apply_command(report.verdict),
        "revert_command": REVERT_COMMAND,
    }
