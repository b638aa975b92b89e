"""The schema of a circuit's report.json."""

from __future__ import annotations

from typing import Literal

from excise.names import Granularity, JobKind
from excise.reports.common import JobReport
from excise.reports.model import ReportModel


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
    kind: Literal[JobKind.CIRCUIT] = JobKind.CIRCUIT
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
