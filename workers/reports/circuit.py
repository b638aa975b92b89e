"""The report of a circuit job: what was found, how faithful it is, and the verdict on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from excise.names import CircuitTask, Granularity, Verdict
from workers.domain import GateResult, JobReport, ReportModel
from workers.reports.charts import Axis, build_axis, layer_of
from workers.reports.gates import build_gate_groups
from workers.reports.rendering import (
    REVERT_COMMAND,
    render_html_template,
    render_markdown_template,
    require_finite,
    write_apply_command,
)

TASK_TITLES = {
    CircuitTask.IOI: "Indirect object identification",
    CircuitTask.GREATER_THAN: "Greater than",
}
DRAWN_RETENTION = (-1.0, 4.0)
"""Beyond these a curve is drawn at the chart's edge."""


class CircuitPoint(ReportModel):
    """Circuits of one size."""

    share: float
    """Kept components over all."""
    kept: int
    metric: float
    faithfulness: float
    retention: float
    """Metric over the whole model's metric."""
    accuracy: float
    """Share of rows on which the answer beats the wrong one."""


class HeatmapRow(ReportModel):
    """One module of the heatmap."""

    module: str
    components: int
    kept: int
    relevance: float
    absolute_relevance: float
    cells: list[float]
    """Score of each head; of neurons and weights the one of largest magnitude in even blocks."""


class CircuitCurve(ReportModel):
    """How much of the task circuits of every size keep, by one attributor."""

    attributor: str
    empty_metric: float
    cpr: float
    """Area under the faithfulness curve (MIB); larger is better."""
    cmd: float
    """Area between the faithfulness curve and 1 (MIB); smaller is better."""
    points: list[CircuitPoint]
    chosen: CircuitPoint
    """The smallest measured size from which on every larger one keeps the threshold."""


class CircuitTask(ReportModel):
    """The task, and how well the whole model does it."""

    name: str
    metric: str
    rows: dict[str, int]
    """Rows by use."""
    whole_metric: float
    corrupted_metric: float
    whole_accuracy: float


class HeldOutCircuit(ReportModel):
    """The circuit on rows that took no part in finding or sizing it."""

    whole_metric: float
    metric: float
    retention: float
    accuracy: float
    zero_retention: float
    """With everything outside set to zero, as the patch does."""


class ChosenCircuit(ReportModel):
    """The circuit of the job: the first attributor's."""

    attributor: str
    kept: int
    of: int
    held_out: HeldOutCircuit


class CircuitReport(JobReport):
    """The whole outcome of a circuit job, as `report.json` holds it."""

    schema_version: Literal[1] = 1
    kind: Literal["circuit"] = "circuit"
    granularity: Granularity
    ablation: str
    order: str
    threshold: float
    task: CircuitTask
    curves: list[CircuitCurve]
    circuit: ChosenCircuit | None
    heatmap: list[HeatmapRow]
    """Of the job's circuit."""
    patch_note: str
    """What the patch does, or why there is none."""
    has_patch: bool = False
    """Whether a patch is among the files."""


_RETENTION_REMEDY = (
    "The circuit lost too much on rows that took no part in finding it. Give more rows, so that "
    "it is found and sized on more, another attributor, or a lower threshold"
)
_SIZE_REMEDY = (
    "No small part of the model carries the task by this attributor. Give another attributor or "
    "granularity, a lower threshold, or a larger max_share"
)


def judge_circuit(
    circuit: ChosenCircuit, threshold: float, max_share: float
) -> tuple[Verdict, str, list[GateResult]]:
    """The verdict on a circuit, why, and its gates."""
    share, held_out = circuit.kept / circuit.of, circuit.held_out
    gates = [
        GateResult(
            name="retention",
            sentence="the circuit keeps this share of the model's metric on held-out rows",
            limit=threshold,
            value=held_out.retention,
            passed=held_out.retention >= threshold,
            remedy=None if held_out.retention >= threshold else _RETENTION_REMEDY,
        ),
        GateResult(
            name="size",
            sentence="the circuit is at most this share of all components",
            limit=max_share,
            value=share,
            passed=share <= max_share,
            remedy=None if share <= max_share else _SIZE_REMEDY,
        ),
    ]
    found = (
        f"{circuit.kept:,} of {circuit.of:,} components ({share:.2%}) keep "
        f"{held_out.retention:.0%} of the model's metric on held-out rows"
    )
    if all(gate.passed for gate in gates):
        return Verdict.PASSED, f"{found}.", gates
    missed = ", ".join(gate.name for gate in gates if not gate.passed)
    return Verdict.REJECTED, f"{found}; not met: {missed}.", gates


@dataclass(frozen=True)
class CurveLine:
    """One attributor's curve as drawn."""

    curve: CircuitCurve
    number: int
    points: list[tuple[float, float]]
    """(x in [0, 1] on a logarithmic axis of the share, retention), by size."""
    chosen: tuple[float, float]


@dataclass(frozen=True)
class CurveChart:
    """Retention over size for every attributor."""

    lines: list[CurveLine]
    retention_axis: Axis
    ticks: list[tuple[float, float]]
    """(x in [0, 1], share) of the size axis."""
    is_clipped: bool
    """Whether a value lies beyond what is drawn."""


def build_curve_chart(curves: Sequence[CircuitCurve]) -> CurveChart | None:
    """The curves with their axes, the chosen sizes among their points; None without any."""
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
    """The report as GitHub-flavoured Markdown, without timings."""
    return render_markdown_template("circuit.md.j2", _context(report))


def render_circuit_html(report: CircuitReport) -> str:
    """The report as one HTML page that loads nothing and runs no script, without timings."""
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
