"""Baselines without gradients, shaped like relevance so that every score works on them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import nn

from excise.names import Granularity, Statistic
from workers.attribution.accumulation import Accumulator
from workers.attribution.attribution import Attribution, Pass
from workers.attribution.matrices import Matrix, WholeMatrix, find_matrices, raise_to
from workers.attribution.memory import HalvingRunner
from workers.attribution.observation import Look, Site, evaluated, observed_inputs
from workers.attribution.sums import Combination, RelevanceSums
from workers.families import (
    count_matrix_inputs,
    fused_weight,
    is_linear,
    is_transposed,
    linear_weight,
    named_weight,
)
from workers.models.batches import TokenBatch
from workers.models.devices import find_device
from workers.models.loaded import LoadedModel

MOST_MODULES = 1 << 20
"""More modules than any model has, so that each module and seed has random numbers of its own."""


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
    modules = loaded.find_components(asked.granularity)
    inputs = sum_inputs(loaded, asked, combination, batches, run)
    if asked.granularity is Granularity.WEIGHT:
        return write_weights(inputs, find_matrices(modules, asked.places))
    if asked.granularity is Granularity.NEURON:
        for statistic, totals in _list_statistics(inputs):
            for name, total in totals.items():
                total.mul_(raise_to(column_norms(modules[name]), statistic))
    return inputs


@torch.no_grad()
def sum_inputs(
    loaded: LoadedModel,
    asked: Attribution,
    combination: Combination,
    batches: Iterable[TokenBatch],
    run: Pass,
) -> RelevanceSums:
    """Return sums over tokens of |input| and input² of each module's features, `(feature,)`.

    The weights of a column share their input, so one pass needs no more than this, however many
    weights there are. For heads, the sums are already of what each head writes, `(head,)`.
    """
    granularity, statistics = asked.granularity, asked.kept_statistics
    modules = loaded.find_components(granularity)
    heads = loaded.heads if granularity is Granularity.HEAD else None
    kept = statistics & {Statistic.MEAN, Statistic.MEAN_SQUARE}
    if Statistic.MEAN_ABSOLUTE in statistics:  # the same as the mean: nothing is negative
        kept |= {Statistic.MEAN}
    if combination is Combination.ROOT_MEAN_SQUARE:
        kept = frozenset({Statistic.MEAN_SQUARE})
    sizes = {
        name: (heads or count_matrix_inputs(module, name),) for name, module in modules.items()
    }
    devices = {name: find_device(module) for name, module in modules.items()}
    accumulator = Accumulator(sizes, devices, kept)
    look = _look(accumulator, modules, heads)

    def step(batch: TokenBatch) -> None:
        placed = batch.to(loaded.device)
        with observed_inputs(modules, placed.is_token, look):
            loaded.run(placed.token_ids)

    runner: HalvingRunner[TokenBatch] = HalvingRunner(step, accumulator, run.on_halved)
    with evaluated(loaded.model):
        for batch in batches:
            runner.run(batch)
            run.advance(len(batch.sample_indices))
    return accumulator.result(combination)


@torch.no_grad()
def write_weights(inputs: RelevanceSums, matrices: Mapping[str, Matrix]) -> RelevanceSums:
    """Return the sums of what each weight of `matrices` writes, from the sums of its input.

    A weight is raised to the same power as its input was.
    """

    def write(statistic: Statistic, totals: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        power = Statistic.MEAN_ABSOLUTE if statistic is Statistic.MEAN else statistic
        return {
            name: raise_to(matrix.read().float(), power) * matrix.along_inputs(totals[name])
            for name, matrix in matrices.items()
        }

    sums, absolute, squares = (
        write(statistic, totals) if totals else {} for statistic, totals in _list_all(inputs)
    )
    return replace(inputs, sums=sums, absolute_sums=absolute, square_sums=squares)


@torch.no_grad()
def compute_magnitude_sums(loaded: LoadedModel, asked: Attribution) -> RelevanceSums:
    """Return weight norms: of a neuron's output column, of a head's columns, |W| of a weight."""
    modules = loaded.find_components(asked.granularity)
    if asked.granularity is Granularity.WEIGHT:
        return read_magnitudes(find_matrices(modules, asked.places), asked)
    norms = {name: column_norms(module) for name, module in modules.items()}
    if asked.granularity is Granularity.HEAD:
        norms = {
            name: torch.linalg.vector_norm(values.unflatten(0, (loaded.heads, -1)), dim=-1)
            for name, values in norms.items()
        }
    return _constant(norms, asked.kept_statistics)


@torch.no_grad()
def read_magnitudes(matrices: Mapping[str, Matrix], asked: Attribution) -> RelevanceSums:
    """Return |W| of the weights of `matrices`."""
    values = {name: matrix.read().float().abs() for name, matrix in matrices.items()}
    return _constant(values, asked.kept_statistics)


def draw_random_sums(loaded: LoadedModel, asked: Attribution) -> RelevanceSums:
    """Return uniform random numbers in [0, 1) in place of relevance: the null attributor."""
    modules = loaded.find_components(asked.granularity)
    if asked.granularity is Granularity.WEIGHT:
        return draw_weights(loaded, find_matrices(modules, asked.places), asked)
    counts = loaded.count_components(asked.granularity)
    values = {
        name: torch.rand(counts[name], generator=_seed(asked, number))
        for number, name in enumerate(modules)
    }
    return _constant(values, asked.kept_statistics)


@torch.no_grad()
def draw_weights(
    loaded: LoadedModel, matrices: Mapping[str, Matrix], asked: Attribution
) -> RelevanceSums:
    """Return random numbers for the weights of `matrices`: the same whatever else is drawn."""
    modules = loaded.find_components(Granularity.WEIGHT)
    numbers = {name: number for number, name in enumerate(modules)}
    values = {
        name: matrix.take(
            torch.rand(
                named_weight(modules[name], name).shape, generator=_seed(asked, numbers[name])
            )
        )
        for name, matrix in matrices.items()
    }
    return _constant(values, asked.kept_statistics)


def _seed(asked: Attribution, module: int) -> torch.Generator:
    """Return the generator of random numbers for the module with this number."""
    return torch.Generator().manual_seed(MOST_MODULES * asked.seed + module)


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
    matrix = WholeMatrix(module)
    return matrix.read().float().abs() * matrix.along_inputs(inputs)


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


def _list_all(
    sums: RelevanceSums,
) -> tuple[tuple[Statistic, Mapping[str, torch.Tensor]], ...]:
    return tuple(zip(Statistic, sums.statistics, strict=True))


def _list_statistics(sums: RelevanceSums) -> Iterator[tuple[Statistic, Mapping[str, torch.Tensor]]]:
    """Yield the statistics that are kept."""
    yield from ((statistic, totals) for statistic, totals in _list_all(sums) if totals)
