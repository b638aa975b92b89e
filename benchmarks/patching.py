"""Activation patching, the slow measurement that relevance approximates, and their correlation.

The effect of a patch is m(clean) − m(clean with the component's activation of the corrupted
prompt): noising with a counterfactual. It is positive if the component contributes to the answer.
To first order it equals (a − a′) · gradient: attribution patching uses the gradient, relevance
patching uses LRP (RelP, arXiv 2508.21258). As in RelP, both are averaged over prompts of one shape
and Pearson's correlation is taken over the grid: for MLPs, their outputs at each layer × position;
for heads (RelP uses whole attention outputs), each layer × head with all positions patched at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from excise.names import CircuitContrast, Granularity
from workers.attribution.composites import Composite
from workers.circuits.measurement import (
    RowBatch,
    build_row_batches,
    compute_last_states,
    compute_metric,
)
from workers.circuits.projections import (
    Projection,
    find_projections,
    read_inputs,
    replaced_inputs,
    sum_by_component,
)
from workers.circuits.tasks import Task, TaskError, TaskRow
from workers.circuits.tracing import Take, read_contrast, trace_gradients
from workers.models.loaded import LoadedModel
from workers.progress import Advance, ignore


@dataclass(frozen=True)
class Patch:
    """What is replaced in one run: some features of a module's input at some positions."""

    module: str
    features: slice
    positions: slice


@torch.no_grad()
def measure_patches(
    loaded: LoadedModel,
    projections: Mapping[str, Projection],
    task: Task,
    patches: Sequence[Patch],
    *,
    batch_tokens: int = 2048,
    advance: Advance = ignore,
) -> torch.Tensor:
    """Return the effect of every patch on every row, `(patch, row)` on the CPU.

    Several patches run in one batch, each on its own copy of the rows. A patch at positions up to
    which both prompts are the same changes nothing and is not run: its effect is 0. `advance` is
    called with the number of patched rows done, patches · rows in all.
    """
    first = min(_find_first_difference(row) for row in task.rows)
    live = [index for index, patch in enumerate(patches) if _reaches(patch, first)]
    advance((len(patches) - len(live)) * len(task.rows))
    effects = torch.zeros(len(patches), len(task.rows))
    for batch in build_row_batches(task.rows, batch_tokens, loaded):
        others = read_inputs(loaded, projections, batch.corrupted_ids)
        base = _measure_copies(loaded, batch, task, 1)
        copies = max(1, batch_tokens // batch.clean_ids.numel())
        for start in range(0, len(live), copies):
            chosen = live[start : start + copies]
            replace = _patch_copies([patches[index] for index in chosen], others)
            with replaced_inputs(projections, replace):
                patched = _measure_copies(loaded, batch, task, len(chosen))
            rows = torch.tensor(batch.sample_indices)
            effects[torch.tensor(chosen)[:, None], rows[None, :]] = (base - patched).cpu()
            advance(len(chosen) * len(batch.rows))
    return effects


def _measure_copies(loaded: LoadedModel, batch: RowBatch, task: Task, copies: int) -> torch.Tensor:
    """Return the metric of several copies of the clean rows, `(copy, row)`."""
    states = compute_last_states(
        loaded, batch.clean_ids.repeat(copies, 1), batch.last.repeat(copies)
    )
    values = compute_metric(loaded, states, batch.rows * copies, task.metric)
    return values.view(copies, len(batch.rows))


def _find_first_difference(row: TaskRow) -> int:
    """Return the first position where the prompts differ, or their length."""
    pairs = zip(row.clean_ids, row.corrupted_ids, strict=True)
    differing = (index for index, (clean, corrupted) in enumerate(pairs) if clean != corrupted)
    return next(differing, len(row.clean_ids))


def _reaches(patch: Patch, first_difference: int) -> bool:
    return patch.positions.stop is None or patch.positions.stop > first_difference


def _patch_copies(
    patches: Sequence[Patch], others: Mapping[str, torch.Tensor]
) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """Return a replacement for a batch that holds one copy of the rows per patch, in order."""

    def replace(name: str, values: torch.Tensor) -> torch.Tensor:
        mine = [index for index, patch in enumerate(patches) if patch.module == name]
        if not mine:
            return values
        copies: torch.Tensor = values.clone().unflatten(0, (len(patches), -1))
        for index in mine:
            patch = patches[index]
            copies[index][:, patch.positions, patch.features] = others[name][
                :, patch.positions, patch.features
            ]
        return copies.flatten(0, 1)

    return replace


def measure_mlp_effects(
    loaded: LoadedModel,
    task: Task,
    *,
    batch_tokens: int = 2048,
    advance: Advance = ignore,
) -> torch.Tensor:
    """Return the mean effect of patching each MLP's output at each position, `(layer, position)`.

    Raises `TaskError` for rows of unequal lengths.
    """
    length = require_equal_length(task)
    projections = find_projections(loaded, (Granularity.NEURON,))
    patches = [
        Patch(name, slice(None), slice(position, position + 1))
        for name in projections
        for position in range(length)
    ]
    effects = measure_patches(
        loaded, projections, task, patches, batch_tokens=batch_tokens, advance=advance
    )
    return effects.mean(dim=1).view(len(projections), length)


def measure_head_effects(
    loaded: LoadedModel,
    task: Task,
    *,
    batch_tokens: int = 2048,
    advance: Advance = ignore,
) -> torch.Tensor:
    """Return the mean effect of patching each head at all positions, `(layer, head)`."""
    projections = find_projections(loaded, (Granularity.HEAD,))
    patches = [
        Patch(name, slice(head * projection.width, (head + 1) * projection.width), slice(None))
        for name, projection in projections.items()
        for head in range(projection.components)
    ]
    effects = measure_patches(
        loaded, projections, task, patches, batch_tokens=batch_tokens, advance=advance
    )
    return effects.mean(dim=1).view(len(projections), -1)


def estimate_mlp_effects(
    loaded: LoadedModel,
    composite: Composite,
    task: Task,
    *,
    contrast: CircuitContrast = CircuitContrast.CORRUPTED,
    batch_tokens: int = 1024,
) -> torch.Tensor:
    """Return the estimate of `measure_mlp_effects` from relevance, `(layer, position)`.

    An output projection is linear, so the relevance of an MLP's output is the sum over its neurons.
    Raises `TaskError` for rows of unequal lengths.
    """
    length = require_equal_length(task)
    projections = find_projections(loaded, (Granularity.NEURON,))
    grid = {name: torch.zeros(length) for name in projections}

    def take(name: str, values: torch.Tensor, gradient: torch.Tensor) -> None:
        by_position = (values * gradient).sum(dim=1).view(-1, length)
        grid[name] += by_position.sum(dim=0).cpu() / len(task.rows)

    _trace(loaded, composite, projections, task, contrast, batch_tokens, take)
    return torch.stack(list(grid.values()))


def estimate_head_effects(
    loaded: LoadedModel,
    composite: Composite,
    task: Task,
    *,
    contrast: CircuitContrast = CircuitContrast.CORRUPTED,
    batch_tokens: int = 1024,
) -> torch.Tensor:
    """Return the estimate of `measure_head_effects` from relevance, `(layer, head)`."""
    projections = find_projections(loaded, (Granularity.HEAD,))
    grid = {name: torch.zeros(projection.components) for name, projection in projections.items()}

    def take(name: str, values: torch.Tensor, gradient: torch.Tensor) -> None:
        summed = (values * gradient).sum(dim=0)
        grid[name] += sum_by_component(summed, projections[name].width).cpu() / len(task.rows)

    _trace(loaded, composite, projections, task, contrast, batch_tokens, take)
    return torch.stack(list(grid.values()))


def require_equal_length(task: Task) -> int:
    """Return the token count of the rows; raise `TaskError` if they differ in length."""
    lengths = sorted({len(row.clean_ids) for row in task.rows})
    if len(lengths) != 1:
        raise TaskError(
            f"the rows have {lengths} tokens, and positions are averaged over rows; take the "
            "rows of one template"
        )
    return lengths[0]


def _trace(
    loaded: LoadedModel,
    composite: Composite,
    projections: Mapping[str, Projection],
    task: Task,
    contrast: CircuitContrast,
    batch_tokens: int,
    take: Take,
) -> None:
    for batch in build_row_batches(task.rows, batch_tokens, loaded):
        others = read_contrast(loaded, projections, batch, contrast)
        trace_gradients(loaded, composite, projections, batch, task.metric, others, take)


def compute_pearson(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return Pearson's correlation of two tensors of the same shape, in [−1, 1].

    Raises `ValueError` if one of them is constant, because the correlation is undefined then.
    """
    first, second = one.double().flatten(), other.double().flatten()
    first, second = first - first.mean(), second - second.mean()
    scale = first.norm() * second.norm()
    if scale == 0:
        raise ValueError("a constant has no correlation; patch more components")
    return float((first @ second) / scale)
