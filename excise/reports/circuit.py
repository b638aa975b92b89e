"""The schema of a circuit's report.json."""

from __future__ import annotations

from typing import Literal

from excise.names import Granularity, JobKind
from excise.reports.common import JobReport
from excise.reports.model import ReportModel


class CircuitPoint(ReportModel):
    """Circuits of one size."""

    share: float
    """Share of all components that the circuits keep."""
    kept: int
    metric: float
    faithfulness: float
    retention: float
    """The metric divided by the whole model's metric."""
    accuracy: float
    """Share of rows on which the right answer beats the wrong one."""


class HeatmapRow(ReportModel):
    """One module's row in the heatmap."""

    module: str
    components: int
    kept: int
    relevance: float
    absolute_relevance: float
    cells: list[float]
    """Score of each head; for neurons and weights, the score of largest magnitude in each of
    several equal blocks."""


class CircuitCurve(ReportModel):
    """How much of the task circuits of each size keep, by one attributor."""

    attributor: str
    empty_metric: float
    cpr: float
    """Area under the faithfulness curve (MIB); larger is better."""
    cmd: float
    """Area between the faithfulness curve and 1 (MIB); smaller is better."""
    points: list[CircuitPoint]
    chosen: CircuitPoint
    """The smallest measured circuit that keeps the threshold, as do all larger ones."""


class CircuitTask(ReportModel):
    """The task, and how well the whole model does it."""

    name: str
    metric: str
    rows: dict[str, int]
    """Use of rows → their number."""
    whole_metric: float
    corrupted_metric: float
    whole_accuracy: float


class HeldOutCircuit(ReportModel):
    """The circuit on rows that were used neither to find nor to size it."""

    whole_metric: float
    metric: float
    retention: float
    accuracy: float
    zero_retention: float
    """Retention with everything outside set to zero, as in the patch."""


class ChosenCircuit(ReportModel):
    """The job's circuit, found by the first attributor."""

    attributor: str
    kept: int
    of: int
    held_out: HeldOutCircuit


class CircuitReport(JobReport):
    """The whole outcome of a circuit job, as `report.json` holds it."""

    schema_version: Literal[1] = 1
    kind: Literal[JobKind.CIRCUIT] = JobKind.CIRCUIT
    granularity: Granularity
    ablation: str
    order: str
    threshold: float
    task: CircuitTask
    curves: list[CircuitCurve]
    circuit: ChosenCircuit | None
    heatmap: list[HeatmapRow]
    """Heatmap of the job's circuit."""
    patch_note: str
    """What the patch does, or why there is none."""
    has_patch: bool = False
    """Whether a patch is among the files."""
