"""What the stages of a circuit job pass to one another, as immutable JSON documents."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from excise.names import CircuitMetric, Granularity
from excise.reports.circuit import CircuitPoint, HeatmapRow
from workers.circuits.outcome import CircuitOutcome, CurvePoint, LayerSummary
from workers.circuits.tasks import Task, TaskRow
from workers.correction.results import StageDocument, StoredSelection
from workers.domain import Selection

HEATMAP_BLOCKS = 32
"""Number of heatmap cells per layer where components are not attention heads."""


class Row(StageDocument):
    """One row of a task."""

    clean_ids: tuple[int, ...]
    corrupted_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    wrong_ids: tuple[int, ...]

    @classmethod
    def from_row(cls, row: TaskRow) -> Row:
        """Return the document that holds `row`."""
        return cls(
            clean_ids=row.clean_ids,
            corrupted_ids=row.corrupted_ids,
            answer_ids=row.answer_ids,
            wrong_ids=row.wrong_ids,
        )

    def to_row(self) -> TaskRow:
        """Return the row as the core's type."""
        return TaskRow(self.clean_ids, self.corrupted_ids, self.answer_ids, self.wrong_ids)


class PreparedCircuit(StageDocument):
    """The task's rows by use; each row is in exactly one part."""

    model_sha256: str
    task: str
    metric: CircuitMetric
    discovery: tuple[Row, ...]
    """Rows on which components are scored."""
    choice: tuple[Row, ...]
    """Rows on which circuits of every size are measured, to choose one size."""
    held_out: tuple[Row, ...]
    """Rows on which the chosen circuit is judged."""

    def build_task(self, rows: tuple[Row, ...]) -> Task:
        """Return one part as a task."""
        return Task(self.task, self.metric, tuple(row.to_row() for row in rows))


class DiscoveredCircuit(StageDocument):
    """One attributor's circuits, and the one that was chosen."""

    attributor: str
    too_weak: str | None = None
    """Why no circuit can be found; if set, everything below is empty."""
    components: int = 0
    whole_metric: float = 0.0
    empty_metric: float = 0.0
    corrupted_metric: float = 0.0
    whole_accuracy: float = 0.0
    cpr: float = 0.0
    cmd: float = 0.0
    curve: tuple[CircuitPoint, ...] = ()
    chosen: CircuitPoint | None = None
    heatmap: tuple[HeatmapRow, ...] = ()
    outside: StoredSelection | None = None
    """Everything outside the chosen circuit."""

    @classmethod
    def from_outcome(cls, outcome: CircuitOutcome, granularity: Granularity) -> DiscoveredCircuit:
        """Return the document that holds `outcome`, whose circuits have one granularity."""
        outside = outcome.outside.get(granularity, Selection(granularity, {}))
        return cls(
            attributor=outcome.settings.attributor.value,
            components=outcome.components,
            whole_metric=outcome.whole_metric,
            empty_metric=outcome.empty_metric,
            corrupted_metric=outcome.corrupted_metric,
            whole_accuracy=outcome.curve[-1].accuracy,  # the whole model
            cpr=outcome.cpr,
            cmd=outcome.cmd,
            curve=tuple(map(_build_point, outcome.curve)),
            chosen=_build_point(outcome.chosen),
            heatmap=tuple(_build_row(layer, outcome.scores) for layer in outcome.heatmap),
            outside=StoredSelection.from_selection(outside),
        )


class CircuitValidation(StageDocument):
    """The chosen circuit, measured on rows that were not used to find it or to choose its size."""

    whole_metric: float
    metric: float
    accuracy: float
    zero_metric: float
    """The metric with everything outside set to zero, as the patch does."""

    @property
    def retention(self) -> float:
        """Share of the whole model's metric that the circuit keeps."""
        return self.metric / self.whole_metric if self.whole_metric > 0 else 0.0

    @property
    def zero_retention(self) -> float:
        """Share of the whole model's metric that remains with everything outside set to zero."""
        return self.zero_metric / self.whole_metric if self.whole_metric > 0 else 0.0


def _build_point(point: CurvePoint) -> CircuitPoint:
    return CircuitPoint(
        share=point.share,
        kept=point.kept,
        metric=point.metric,
        faithfulness=point.faithfulness,
        retention=point.retention,
        accuracy=point.accuracy,
    )


def _build_row(layer: LayerSummary, scores: Mapping[str, torch.Tensor]) -> HeatmapRow:
    return HeatmapRow(
        module=layer.module,
        components=layer.components,
        kept=layer.kept,
        relevance=layer.relevance,
        absolute_relevance=layer.absolute_relevance,
        cells=list(layer.heads) or _find_extremes(scores[layer.module]),
    )


def _find_extremes(scores: torch.Tensor) -> list[float]:
    """Return the score of largest magnitude in each of at most `HEATMAP_BLOCKS` even blocks."""
    flat = scores.flatten()
    size = math.ceil(len(flat) / HEATMAP_BLOCKS)
    return [float(block[block.abs().argmax()]) for block in flat.split(size)]
