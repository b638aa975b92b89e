"""One score per component: its relevance for a task, by any attributor, over the task's rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial

import torch

from excise.names import Attributor, CircuitContrast, Granularity
from workers.attribution.attribution import Attribution
from workers.attribution.attributors import compute_relevance
from workers.attribution.baselines import column_norms, score_by_inputs
from workers.attribution.composites import COMPOSITES
from workers.attribution.targets import Target
from workers.circuits.measurement import RowBatch, run_row_batches
from workers.circuits.projections import Projection, has_weights, read_inputs, sum_by_component
from workers.circuits.tasks import Task
from workers.circuits.tracing import read_contrast, trace_gradients
from workers.families import linear_weight
from workers.models.loaded import LoadedModel
from workers.progress import Advance, ignore

BATCH_TOKENS = 1024
"""Padded tokens per batch. Chosen by hand; affects memory and time only."""

_POWERS = {Attributor.ACTIVATION: 1, Attributor.WANDA: 2}
"""Attributors that read activations only → the power of the norms that they average."""


class _Sums(dict[str, torch.Tensor]):
    """Module name → running sum. A batch that is repeated adds to each sum only once."""

    def __init__(self) -> None:
        super().__init__()
        self.folded: set[Hashable] = set()
        self._skipped: AbstractSet[Hashable] = frozenset()

    def begin(self, skipped: AbstractSet[Hashable]) -> None:
        """Start a batch, or part of one that has already been added to the `skipped` sums."""
        self.folded, self._skipped = set(), skipped

    def end(self, batch: RowBatch) -> None:
        """Finish a batch; its sums are complete already."""

    def add(self, name: str, compute: Callable[[], torch.Tensor]) -> None:
        """Add what `compute` returns, unless the batch did so before it ran out of memory."""
        if name in self._skipped:
            return
        values = compute()
        self[name] = self[name] + values if name in self else values
        self.folded.add(name)


def compute_scores(
    loaded: LoadedModel,
    attributor: Attributor,
    projections: Mapping[str, Projection],
    task: Task,
    contrast: CircuitContrast,
    *,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    advance: Advance = ignore,
) -> dict[str, torch.Tensor]:
    """Return module → score of each component for the task, float32 on the CPU.

    Scores have shape `(component,)` for neurons and heads, the stored shape for single weights.

    - LRP and gradient: the signed relevance of the metric at the last position, summed over
      positions and averaged over rows. For weights, W ∘ Σ gradient ⊗ input (Eq. 8 of arXiv
      2506.13727), multiplied by W once at the end; one matrix per module is held in memory.
    - Activation and Wanda: the mean and the root mean square, over tokens, of what a component
      writes: |a| · ‖W[:, j]‖₂ for a neuron, the norm of these over a head's features, and
      |W| · |x| for a weight.
    - Magnitude and random: no row is read.

    With contrast `CORRUPTED`, activations are differences from those on the corrupted prompt, for
    the first two. `advance` is called with the number of rows of each finished batch. Raises
    `NonFiniteRelevanceError`.
    """
    if attributor in (Attributor.MAGNITUDE, Attributor.RANDOM):
        advance(len(task.rows))
        return _score_blindly(loaded, attributor, projections, seed)
    if attributor in _POWERS:
        power = _POWERS[attributor]
        means = _average_written(loaded, projections, task, contrast, power, batch_tokens, advance)
        return {
            name: _finish_written(projection, means[name].pow(1 / power))
            for name, projection in projections.items()
        }
    sums = _Sums()

    def take(name: str, values: torch.Tensor, gradient: torch.Tensor) -> None:
        share = partial(_sum_relevance, projections[name], values, gradient, len(task.rows))
        sums.add(name, share)

    composite = COMPOSITES[attributor.value]

    def step(batch: RowBatch) -> None:
        others = read_contrast(loaded, projections, batch, contrast)
        trace_gradients(loaded, composite, projections, batch, task.metric, others, take)
        advance(len(batch.rows))

    run_row_batches(loaded, task.rows, batch_tokens, step, sums)
    # Modules that no gradient reached (queries and keys under CP-LRP) have relevance 0.
    nothing = torch.zeros(())
    return {
        name: _finish_relevance(projection, sums.get(name, nothing))
        for name, projection in projections.items()
    }


def _sum_relevance(
    projection: Projection, values: torch.Tensor, gradient: torch.Tensor, rows: int
) -> torch.Tensor:
    """Return the batch's contribution to the mean over `rows`.

    For single weights it still has to be multiplied by the weights.
    """
    if projection.granularity is not Granularity.WEIGHT:
        return sum_by_component((values * gradient).sum(dim=0), projection.width) / rows
    return (gradient.T @ values if projection.row_axis == 0 else values.T @ gradient) / rows


def _finish_relevance(projection: Projection, total: torch.Tensor) -> torch.Tensor:
    return (
        _weight(projection) * total if projection.granularity is Granularity.WEIGHT else total
    ).cpu()


def _finish_written(projection: Projection, mean: torch.Tensor) -> torch.Tensor:
    """Return the scores of what components write, from the mean that `_average_written` gave.

    For single weights `mean` is that of the module's inputs, `(feature,)`.
    """
    if projection.granularity is not Granularity.WEIGHT:
        return mean.cpu()
    return score_by_inputs(projection.module, mean).cpu()


@torch.no_grad()
def _average_written(
    loaded: LoadedModel,
    projections: Mapping[str, Projection],
    task: Task,
    contrast: CircuitContrast,
    power: int,
    batch_tokens: int,
    advance: Advance,
) -> dict[str, torch.Tensor]:
    """Return module → mean over tokens of (|input| · norm)^power, `(component,)`.

    The norm is that of the feature's column of weights. For single weights there is no norm, and
    each input feature counts as a component.
    """
    norms = (
        {}
        if has_weights(projections)
        else {n: column_norms(s.module) for n, s in projections.items()}
    )
    sums = _Sums()

    def step(batch: RowBatch) -> None:
        others = read_contrast(loaded, projections, batch, contrast)
        for name, values in read_inputs(loaded, projections, batch.clean_ids).items():
            difference = values - others[name] if others else values
            is_token = batch.is_token.flatten().to(difference.device)
            real = difference.reshape(len(is_token), -1)[is_token].float()
            width = projections[name].width
            sums.add(name, partial(_sum_written, real * norms.get(name, 1.0), width, power))
        advance(len(batch.rows))

    run_row_batches(loaded, task.rows, batch_tokens, step, sums)
    tokens = sum(len(row.clean_ids) for row in task.rows)
    return {name: total / tokens for name, total in sums.items()}


def _sum_written(written: torch.Tensor, width: int, power: int) -> torch.Tensor:
    """Return the norm of what each component writes, to `power`, summed over tokens."""
    return sum_by_component(written.square(), width).pow(power / 2).sum(dim=0)


def _score_blindly(
    loaded: LoadedModel,
    attributor: Attributor,
    projections: Mapping[str, Projection],
    seed: int,
) -> dict[str, torch.Tensor]:
    scores: dict[str, torch.Tensor] = {}
    kinds = dict.fromkeys(projection.granularity for projection in projections.values())
    for offset, granularity in enumerate(kinds):
        relevance = compute_relevance(
            loaded, Attribution(attributor, granularity, Target.TOP_LOGIT, seed=seed + offset), ()
        )
        scores |= relevance.mean
    return scores


def _weight(projection: Projection) -> torch.Tensor:
    return linear_weight(projection.module).detach().float()
