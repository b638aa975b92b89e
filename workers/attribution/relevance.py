"""Relevance by gradients, streamed over batches: one forward and one backward pass each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from excise.names import Granularity, Statistic
from workers.attribution.accumulation import Accumulator, Storage
from workers.attribution.attribution import DEFAULT_PASS, Attribution, Pass
from workers.attribution.composites import Composite, attribution_rules
from workers.attribution.memory import HalvingRunner
from workers.attribution.observation import Site, observed_gradients, observed_outputs
from workers.attribution.sums import RelevanceSums
from workers.attribution.targets import Target, TokenMass, compute_directions, find_target_positions
from workers.families import (
    count_features,
    is_transposed,
    linear_weight,
)
from workers.models.batches import TokenBatch
from workers.models.devices import find_device
from workers.models.loaded import LoadedModel


def sum_gradient_relevance(
    loaded: LoadedModel,
    composite: Composite,
    asked: Attribution,
    batches: Iterable[TokenBatch],
    run: Pass = DEFAULT_PASS,
) -> RelevanceSums:
    """Return the sums of relevance over the tokens of `batches`.

    With L the sum of the target over the predicted positions and the gradient following
    `composite`: a neuron's relevance at a token is `a · ∂L/∂a` at the input of the MLP's output
    projection, a head's the sum of that over its slice of the attention output projection's
    input, a weight's `W · ∂L/∂W` (Eq. 8) with the token's part of ∂L/∂W. Memory does not grow
    with the number of batches.

    Raises `UnsupportedGranularityError`, `NonFiniteRelevanceError`, `SampleTooLargeError`.
    """
    modules = loaded.find_components(asked.granularity)
    accumulator = build_accumulator(loaded, asked, run.storage)
    is_weight = asked.granularity is Granularity.WEIGHT
    observed = _observed_weights if is_weight else _observed_features
    with observed(loaded, composite, asked.granularity, accumulator):
        runner = HalvingRunner(
            lambda batch: _backward(loaded, batch, asked), accumulator, run.on_halved
        )
        for batch in batches:
            runner.run(batch)
            run.advance(len(batch.sample_indices))
    if is_weight:
        _multiply_by_weights(accumulator, modules)
    return accumulator.result()


def build_accumulator(loaded: LoadedModel, asked: Attribution, storage: Storage) -> Accumulator:
    """Return an empty accumulator with one entry for every component that is asked about."""
    modules = loaded.find_components(asked.granularity)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in modules.items():
        if asked.granularity is Granularity.WEIGHT:
            shapes[name] = tuple(linear_weight(module).shape)
        elif asked.granularity is Granularity.HEAD:
            shapes[name] = (loaded.heads,)
        else:
            shapes[name] = (count_features(module),)
    devices = {name: find_device(module) for name, module in modules.items()}
    return Accumulator(shapes, devices, asked.kept_statistics, storage)


@contextmanager
def _observed_features(
    loaded: LoadedModel, composite: Composite, granularity: Granularity, accumulator: Accumulator
) -> Iterator[None]:
    heads = loaded.heads if granularity is Granularity.HEAD else None

    def see(site: Site, values: torch.Tensor, gradient: torch.Tensor) -> None:
        relevance = values.float() * gradient.float()
        if heads is not None:
            relevance = relevance.unflatten(-1, (heads, -1)).sum(dim=-1)
        for statistic, total in accumulator.missing(site, values.shape[-1]):
            part = _reduce_(relevance, statistic)
            accumulator.witness(site, part.sum())
            total.add_(part.to(total.device))

    # Observers come after the rules: they see the gradient before the product rule.
    modules = loaded.find_components(granularity)
    with attribution_rules(loaded, composite), observed_gradients(modules, see):
        yield


@contextmanager
def _observed_weights(
    loaded: LoadedModel, composite: Composite, granularity: Granularity, accumulator: Accumulator
) -> Iterator[None]:
    modules = loaded.find_components(granularity)
    transposed = {name: is_transposed(module) for name, module in modules.items()}

    def see(site: Site, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        accumulator.witness(site, inputs.float().sum() + gradient.float().sum())
        left, right = (inputs, gradient) if transposed[site.module] else (gradient, inputs)
        for statistic, total in accumulator.missing(site, inputs.shape[-1]):
            _add_outer(total, _raise(left, statistic), _raise(right, statistic))

    # Observers come before the rules: they see the gradient that all rules have changed.
    with observed_outputs(modules, see), attribution_rules(loaded, composite):
        yield


def _reduce_(relevance: torch.Tensor, statistic: Statistic) -> torch.Tensor:
    """Return one sum over the rows of `(row, component)`, which is overwritten.

    To be called in the order of `Statistic`: magnitudes undo the signs that the mean needs, and
    squares the magnitudes. In place it takes a quarter of the time of norms over the rows.
    """
    if statistic is Statistic.MEAN_ABSOLUTE:
        relevance.abs_()
    elif statistic is Statistic.MEAN_SQUARE:
        relevance.square_()
    return relevance.sum(dim=0)


def _raise(values: torch.Tensor, statistic: Statistic) -> torch.Tensor:
    if statistic is Statistic.MEAN:
        return values
    return values.abs() if statistic is Statistic.MEAN_ABSOLUTE else values.float().square()


def _add_outer(total: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> None:
    """Add the sum over rows of left ⊗ right to `total` `(left, right)`, in float32."""
    if left.device == total.device and left.dtype == right.dtype == torch.float32:
        total.addmm_(left.T, right)
    elif left.is_cuda and left.dtype in (torch.bfloat16, torch.float16):
        total.add_(torch.mm(left.T, right, out_dtype=torch.float32).to(total.device))
    else:
        total.add_((left.float().T @ right.float()).to(total.device))


def _multiply_by_weights(accumulator: Accumulator, modules: dict[str, nn.Module]) -> None:
    """Turn sums of gradients into sums of relevance, in place."""
    for statistic, totals in accumulator.totals.items():
        for name, total in totals.items():
            weight = linear_weight(modules[name]).detach().to(total.device)
            total.mul_(_raise(weight, statistic))


def _backward(loaded: LoadedModel, batch: TokenBatch, asked: Attribution) -> None:
    """Run the batch forwards and the target's gradient backwards, for the observers to see."""
    states, find_directions = predict(loaded, batch)
    directions = find_directions(asked.target, asked.seed)
    if len(states):
        torch.autograd.backward([states], [directions])


def predict(
    loaded: LoadedModel, batch: TokenBatch
) -> tuple[torch.Tensor, Callable[[Target | TokenMass, int], torch.Tensor]]:
    """Run the batch forwards; return the states `(position, hidden)` that predict a token.

    And what gives a target's direction at each of them, by its seed, see `compute_directions`.
    """
    placed = batch.to(loaded.device)
    hidden = loaded.run(placed.token_ids)
    positions = find_target_positions(placed)
    states = hidden[positions.to(hidden.device)]
    head = loaded.head.detach()

    def find_directions(target: Target | TokenMass, seed: int) -> torch.Tensor:
        return compute_directions(states.detach(), placed, positions, head, target, seed)

    return states, find_directions
