"""Baselines without gradients, shaped like relevance so that every score works on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from excise.names import Granularity, Statistic
from workers.attribution.accumulation import Accumulator, Storage
from workers.attribution.attribution import Attribution, Pass
from workers.attribution.memory import HalvingRunner
from workers.attribution.observation import Look, Site, evaluated, observed_inputs
from workers.attribution.sums import Combination, RelevanceSums
from workers.families import count_features, fused_weight, is_linear, is_transposed, linear_weight
from workers.models.batches import TokenBatch
from workers.models.devices import find_device
from workers.models.loaded import LoadedModel


@torch.no_grad()
def sum_written_magnitudes(
    loaded: LoadedModel,
    asked: Attribution,
    combination: Combination,
    batches: Iterable[TokenBatch],
    run: Pass,
) -> RelevanceSums:
    """Return sums over tokens of how much each component writes.

    A neuron writes `|a| · ‖W[:, j]‖₂`, a head the Euclidean norm of that over its features, a
    weight `|W| · |x|`. The mean over tokens is the activation attributor. The root of the mean
    square is Wanda's `|W| · ‖X‖₂` (arXiv 2306.11695, Eq. 1) divided by the root of the number of
    tokens.
    """
    granularity, statistics = asked.granularity, asked.kept_statistics
    modules = loaded.find_components(granularity)
    heads = loaded.heads if granularity is Granularity.HEAD else None
    kept = statistics & {Statistic.MEAN, Statistic.MEAN_SQUARE}
    if Statistic.MEAN_ABSOLUTE in statistics:  # the same as the mean: nothing is negative
        kept |= {Statistic.MEAN}
    if combination is Combination.ROOT_MEAN_SQUARE:
        kept = frozenset({Statistic.MEAN_SQUARE})
    # Weights of a column share their input, so sums over features are enough until the end.
    sizes = {name: (heads or count_features(module),) for name, module in modules.items()}
    devices = {name: find_device(module) for name, module in modules.items()}
    accumulator = Accumulator(sizes, devices, kept, Storage())
    look = _look(accumulator, modules, heads)

    def step(batch: TokenBatch) -> None:
        placed = batch.to(loaded.device)
        with observed_inputs(modules, placed.is_token, look):
            loaded.run(placed.token_ids)

    runner = HalvingRunner(step, accumulator, run.on_halved)
    with evaluated(loaded.model):
        for batch in batches:
            runner.run(batch)
            run.advance(len(batch.sample_indices))
    if granularity is not Granularity.HEAD:
        _multiply(accumulator, modules, granularity, run.storage)
    return accumulator.result(combination)


@torch.no_grad()
def compute_magnitude_sums(loaded: LoadedModel, asked: Attribution) -> RelevanceSums:
    """Return weight norms: of a neuron's output column, of a head's columns, |W| of a weight."""
    norms: dict[str, torch.Tensor] = {}
    for name, module in loaded.find_components(asked.granularity).items():
        if asked.granularity is Granularity.WEIGHT:
            norms[name] = linear_weight(module).float().abs()
            continue
        norms[name] = column_norms(module)
        if asked.granularity is Granularity.HEAD:
            by_head = norms[name].unflatten(0, (loaded.heads, -1))
            norms[name] = torch.linalg.vector_norm(by_head, dim=-1)
    return _constant(norms, asked.kept_statistics)


def draw_random_sums(loaded: LoadedModel, asked: Attribution) -> RelevanceSums:
    """Return uniform random numbers in [0, 1) in place of relevance: the null attributor."""
    generator = torch.Generator().manual_seed(asked.seed)
    counts = loaded.count_components(asked.granularity)
    values = {}
    for name, module in loaded.find_components(asked.granularity).items():
        is_weight = asked.granularity is Granularity.WEIGHT
        shape = linear_weight(module).shape if is_weight else (counts[name],)
        values[name] = torch.rand(shape, generator=generator)
    return _constant(values, asked.kept_statistics)


def column_norms(module: nn.Module) -> torch.Tensor:
    """Return the norm of what each input feature writes, `(feature,)`, experts one by one."""
    if is_linear(module):
        axis = 1 if is_transposed(module) else 0
        columns: torch.Tensor = torch.linalg.vector_norm(linear_weight(module).float(), dim=axis)
        return columns
    columns = torch.linalg.vector_norm(fused_weight(module).float(), dim=1)
    return columns.flatten()


@torch.no_grad()
def score_by_inputs(module: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Return |W| · `inputs` of every weight of a linear module, float32 in the stored layout.

    `inputs` `(feature,)` holds the size of each input feature. With its norm over tokens, or its
    root mean square, this is Wanda's score (arXiv 2306.11695, Eq. 1).
    """
    return linear_weight(module).float().abs() * _along_inputs(module, inputs)


def _along_inputs(module: nn.Module, values: torch.Tensor) -> torch.Tensor:
    """Return values `(feature,)` of a linear module's input, shaped to multiply its weight."""
    return values[:, None] if is_transposed(module) else values


def _constant(
    values: Mapping[str, torch.Tensor], statistics: frozenset[Statistic]
) -> RelevanceSums:
    squares: dict[str, torch.Tensor] = {}
    if Statistic.MEAN_SQUARE in statistics:
        squares = {name: value.square() for name, value in values.items()}
    return RelevanceSums(values, {}, squares, 0, 0, Combination.CONSTANT)


def _look(accumulator: Accumulator, modules: Mapping[str, nn.Module], heads: int | None) -> Look:
    norms = {name: column_norms(module) for name, module in modules.items()} if heads else {}

    def look(site: Site, values: torch.Tensor) -> None:
        magnitudes = values.float().abs()
        if heads is not None:
            written = (magnitudes * norms[site.module]).unflatten(-1, (heads, -1))
            magnitudes = torch.linalg.vector_norm(written, dim=-1)
        for statistic, total in accumulator.missing(site, values.shape[-1]):
            raised = magnitudes.square() if statistic is Statistic.MEAN_SQUARE else magnitudes
            part = raised.sum(dim=0)
            accumulator.witness(site, part.sum())
            total.add_(part)

    return look


def _multiply(
    accumulator: Accumulator,
    modules: Mapping[str, nn.Module],
    granularity: Granularity,
    storage: Storage,
) -> None:
    """Turn sums of |input| or input² into sums of what is written, in place.

    The weights, or the norms of their columns, are taken to the power that was summed.
    """
    for statistic, totals in accumulator.totals.items():
        power: Callable[[torch.Tensor], torch.Tensor] = (
            torch.square if statistic is Statistic.MEAN_SQUARE else torch.abs
        )
        for name, module in modules.items():
            if granularity is Granularity.NEURON:
                totals[name].mul_(power(column_norms(module)))
                continue
            weight = linear_weight(module)
            total = storage.zeros(f"{statistic}-{name}", tuple(weight.shape), weight.device)
            total.copy_(power(weight.float()) * _along_inputs(module, totals[name]))
            totals[name] = total
