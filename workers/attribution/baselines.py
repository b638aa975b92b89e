"""Relevance stand-ins without gradients, shaped alike so that every score works on them."""

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
    """Return the sums of how much each component writes at a token.

    A neuron writes `|a| · ‖W[:, j]‖₂`, a head the Euclidean norm of that over its features, a
    weight `|W| · |x|`. Combined to a mean that is the activation attributor; combined to the
    root of the mean square it is Wanda's `|W| · ‖X‖₂` (arXiv 2306.11695, Eq. 1), divided by
    the root of the number of tokens.
    """
    granularity, statistics = asked.granularity, asked.kept_statistics
    modules = loaded.find_components(granularity)
    heads = loaded.heads if granularity is Granularity.HEAD else None
    kept = statistics & {Statistic.MEAN, Statistic.MEAN_SQUARE}
    if Statistic.MEAN_ABSOLUTE in statistics:  # of what is never negative it is the mean
        kept |= {Statistic.MEAN}
    if combination is Combination.ROOT_MEAN_SQUARE:
        kept = frozenset({Statistic.MEAN_SQUARE})
    # Weights share their inputs: sums over features are enough until the end.
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
    """Return each component's weight norm: of a neuron's output column, a head's columns, |W|."""
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
    """Multiply sums over input features by what the weights make of them, in place."""
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
            sums = totals[name][:, None] if is_transposed(module) else totals[name]
            total.copy_(power(weight.float()) * sums)
            totals[name] = total
