"""Circuit discovery: score components on some rows, measure circuits of each size on others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from excise.names import Attributor, CircuitAblation, Granularity, Scope
from workers.circuits.faithfulness import KeepMask, compute_faithfulness, measure_circuits
from workers.circuits.measurement import measure_rows
from workers.circuits.outcome import CircuitOutcome, CircuitSettings, CurvePoint, LayerSummary
from workers.circuits.projections import Projection, find_projections
from workers.circuits.ranking import count_circuit, keep_largest, order_scores, select_outside
from workers.circuits.relevance import compute_scores
from workers.circuits.tasks import Task
from workers.models.loaded import LoadedModel
from workers.progress import Advance, ignore


class WeakTaskError(ValueError):
    """The model cannot do the task, so it has no circuit for it; choose another task."""


def discover_circuit(
    loaded: LoadedModel,
    discovery: Task,
    held_out: Task,
    settings: CircuitSettings,
    *,
    advance: Advance = ignore,
) -> CircuitOutcome:
    """Return a task's circuit: components scored on `discovery`, circuits measured on `held_out`.

    `advance` is called with units of work just done, `count_work` of them in total. Raises
    `ValueError` for settings that contradict each other, `WeakTaskError` if the whole model's
    metric is not positive, `UndefinedFaithfulnessError` if ablating every component changes
    nothing, and `NonFiniteRelevanceError`.
    """
    check_settings(settings)
    projections = find_projections(loaded, settings.granularities)
    whole, corrupted = _measure_whole(loaded, held_out, settings, advance)
    scores = score_components(loaded, projections, discovery, settings, advance)
    ranked = _Ranked(order_scores(scores, settings.order), resolve_scope(settings), projections)

    def measure(shares: Sequence[float]) -> torch.Tensor:
        return measure_circuits(
            loaded,
            projections,
            held_out,
            (ranked.keep(share) for share in shares),
            settings.ablation,
            mean_rows=discovery.rows,
            batch_tokens=settings.batch_tokens,
            advance=advance,
        )

    ablated = measure((0.0, *settings.shares[:-1]))
    frame = _Frame(_mean(ablated[0]), _mean(whole), ranked)
    curve = tuple(
        frame.place(share, metrics)
        for share, metrics in zip(settings.shares, [*ablated[1:], whole], strict=True)
    )
    chosen = _refine(curve, frame, settings, measure)
    kept = ranked.keep(chosen.share)
    return CircuitOutcome(
        settings=settings,
        task=held_out.name,
        whole_metric=frame.whole,
        empty_metric=frame.empty,
        corrupted_metric=_mean(corrupted),
        curve=curve,
        chosen=chosen,
        outside=select_outside(kept, projections),
        heatmap=tuple(summarise_layers(scores, kept, projections)),
        scores=scores,
    )


def count_work(settings: CircuitSettings, discovery: Task, held_out: Task) -> int:
    """Return the units of work that `discover_circuit` reports: rows read, per circuit size."""
    circuits = len(settings.shares) + settings.refinements
    return len(discovery.rows) + (circuits + 2) * len(held_out.rows)


def check_settings(settings: CircuitSettings) -> None:
    """Raise `ValueError`, with a remedy, for settings that contradict each other."""
    shares = settings.shares
    if not shares or shares[-1] != 1.0 or any(a >= b for a, b in pairwise((0.0, *shares))):
        raise ValueError("shares must ascend from above 0 to 1.0, the whole model")
    is_weight = Granularity.WEIGHT in settings.granularities
    if is_weight and settings.ablation is not CircuitAblation.ZERO:
        raise ValueError("weights are ablated by zero; set ablation to zero")
    if resolve_scope(settings) is Scope.ROW and not is_weight:
        raise ValueError("scope row is for weight matrices only; use scope layer or global")


def resolve_scope(settings: CircuitSettings) -> Scope:
    """Return the settings' comparison scope, or the attributor's default if they name none."""
    if settings.scope is not None:
        return settings.scope
    if settings.attributor is not Attributor.WANDA:
        return Scope.GLOBAL
    if settings.granularities == (Granularity.WEIGHT,):
        return Scope.ROW
    return Scope.LAYER if settings.granularities == (Granularity.NEURON,) else Scope.GLOBAL


def score_components(
    loaded: LoadedModel,
    projections: Mapping[str, Projection],
    task: Task,
    settings: CircuitSettings,
    advance: Advance = ignore,
) -> dict[str, torch.Tensor]:
    """Return module → score of each component, by the settings' attributor and contrast."""
    return compute_scores(
        loaded,
        settings.attributor,
        projections,
        task,
        settings.contrast,
        seed=settings.seed,
        batch_tokens=settings.batch_tokens,
        advance=advance,
    )


def choose_point(curve: Sequence[CurvePoint], threshold: float) -> CurvePoint:
    """Return the smallest circuit that keeps `threshold` of the metric, as must all larger ones.

    The curve's last point, the whole model, always does. A size that passes by luck, while a
    larger one fails, is not chosen.
    """
    chosen = curve[-1]
    for point in reversed(curve):
        if point.retention < threshold:
            break
        chosen = point
    return chosen


def summarise_layers(
    scores: Mapping[str, torch.Tensor], kept: KeepMask, projections: Mapping[str, Projection]
) -> Iterator[LayerSummary]:
    """Yield, for each module in order, its summed scores and how many components it keeps."""
    for name, values in scores.items():
        is_head = projections[name].granularity is Granularity.HEAD
        yield LayerSummary(
            module=name,
            granularity=projections[name].granularity,
            relevance=float(values.double().sum()),
            absolute_relevance=float(values.double().abs().sum()),
            components=values.numel(),
            kept=int(kept[name].sum()),
            heads=tuple(values.tolist()) if is_head else (),
        )


def share_positive(metrics: torch.Tensor) -> float:
    """Return the share of rows with a positive metric: the right answer beats the wrong one."""
    return float((metrics > 0).float().mean())


def _measure_whole(
    loaded: LoadedModel,
    task: Task,
    settings: CircuitSettings,
    advance: Advance,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the whole model's metric on the clean and the corrupted rows, `(row,)` each."""
    measured: list[torch.Tensor] = []
    for is_corrupted in (False, True):
        values = measure_rows(
            loaded,
            task.rows,
            task.metric,
            corrupted=is_corrupted,
            batch_tokens=settings.batch_tokens,
        )
        measured.append(values)
        advance(len(task.rows))
    whole, corrupted = measured
    if whole.mean() <= 0:
        raise WeakTaskError(
            f"the model's {task.metric.value} is {float(whole.mean()):.3g} on the held-out rows, "
            "so it does not do the task; reword the prompts or take another task or model"
        )
    return whole, corrupted


def _mean(metrics: torch.Tensor) -> float:
    return float(metrics.double().mean())


@dataclass(frozen=True)
class _Ranked:
    """Scores of which the larger are kept first, and the scope within which a share is kept."""

    scores: Mapping[str, torch.Tensor]
    scope: Scope
    projections: Mapping[str, Projection]

    def keep(self, share: float) -> KeepMask:
        return keep_largest(self.scores, share, self.scope, self.projections)

    def count(self, share: float) -> int:
        return count_circuit(self.scores, share, self.scope, self.projections)


@dataclass(frozen=True)
class _Frame:
    """The metrics of the empty circuit and the whole model, between which circuits are placed."""

    empty: float
    whole: float
    ranked: _Ranked

    def place(self, share: float, metrics: torch.Tensor) -> CurvePoint:
        """Return the curve point of a circuit, from its metric on every row, `(row,)`."""
        mean = _mean(metrics)
        return CurvePoint(
            share=share,
            kept=self.ranked.count(share),
            metric=mean,
            faithfulness=compute_faithfulness(mean, self.empty, self.whole),
            retention=mean / self.whole,
            accuracy=share_positive(metrics),
        )


def _refine(
    points: Sequence[CurvePoint],
    frame: _Frame,
    settings: CircuitSettings,
    measure: Callable[[Sequence[float]], torch.Tensor],
) -> CurvePoint:
    """Return the chosen point after bisection towards the next smaller size that fails."""
    chosen = choose_point(points, settings.threshold)
    low = max((point.share for point in points if point.share < chosen.share), default=0.0)
    for _ in range(settings.refinements):
        middle = (low + chosen.share) / 2
        point = frame.place(middle, measure((middle,))[0])
        if point.retention < settings.threshold:
            low = middle
        else:
            chosen = point
    return chosen
