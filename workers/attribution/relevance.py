"""Relevance by gradients, streamed over batches: one forward and one backward pass each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from excise.names import Granularity, Statistic
from workers.attribution.accumulation import Accumulator, Storage, accumulator_for
from workers.attribution.composites import Composite, attribution_rules
from workers.attribution.memory import HalvingRunner, OnHalved
from workers.attribution.observation import Site, observed_gradients, observed_outputs
from workers.attribution.sums import RelevanceSums
from workers.attribution.targets import Target, TokenMass, compute_directions, find_target_positions
from workers.families import (
    Family,
    count_heads,
    find_components,
    head_weight,
    is_transposed,
    linear_weight,
)
from workers.models.batches import TokenBatch
from workers.progress import Advance


def sum_gradient_relevance(
    model: nn.Module,
    family: Family,
    composite: Composite,
    granularity: Granularity,
    batches: Iterable[TokenBatch],
    target: Target | TokenMass,
    statistics: frozenset[Statistic],
    storage: Storage,
    advance: Advance,
    on_halved: OnHalved,
    seed: int = 0,
) -> RelevanceSums:
    """Return the sums of relevance over the tokens of `batches`.

    With L the sum of `target` over the predicted positions and the gradient following
    `composite`: a neuron's relevance at a token is `a · ∂L/∂a` at the input of the MLP's output
    projection, a head's the sum of that over its slice of the attention output projection's
    input, a weight's `W · ∂L/∂W` (Eq. 8) with the token's part of ∂L/∂W. Memory does not grow
    with the number of batches.

    Raises `UnsupportedGranularityError`, `NonFiniteRelevanceError`, `SampleTooLargeError`.
    """
    modules = find_components(model, family, granularity)
    accumulator = accumulator_for(model, modules, granularity, statistics, storage)
    observed = _observed_weights if granularity is Granularity.WEIGHT else _observed_features
    with observed(model, family, composite, granularity, accumulator):
        runner = HalvingRunner(
            lambda batch: _backward(model, family, batch, target, seed), accumulator, on_halved
        )
        for batch in batches:
            runner.run(batch)
            advance(len(batch.sample_indices))
    if granularity is Granularity.WEIGHT:
        _multiply_by_weights(accumulator, modules)
    return accumulator.result()


@contextmanager
def _observed_features(
    model: nn.Module,
    family: Family,
    composite: Composite,
    granularity: Granularity,
    accumulator: Accumulator,
) -> Iterator[None]:
    heads = count_heads(model) if granularity is Granularity.HEAD else None

    def see(site: Site, values: torch.Tensor, gradient: torch.Tensor) -> None:
        relevance = values.float() * gradient.float()
        if heads is not None:
            relevance = relevance.unflatten(-1, (heads, -1)).sum(dim=-1)
        for statistic, total in accumulator.missing(site, values.shape[-1]):
            part = _reduce_(relevance, statistic)
            accumulator.witness(site, part.sum())
            total.add_(part.to(total.device))

    # Observers come after the rules: they see the gradient before the product rule.
    modules = find_components(model, family, granularity)
    with attribution_rules(model, family, composite), observed_gradients(modules, see):
        yield


@contextmanager
def _observed_weights(
    model: nn.Module,
    family: Family,
    composite: Composite,
    granularity: Granularity,
    accumulator: Accumulator,
) -> Iterator[None]:
    modules = find_components(model, family, granularity)
    transposed = {name: is_transposed(module) for name, module in modules.items()}

    def see(site: Site, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        accumulator.witness(site, inputs.float().sum() + gradient.float().sum())
        left, right = (inputs, gradient) if transposed[site.module] else (gradient, inputs)
        for statistic, total in accumulator.missing(site, inputs.shape[-1]):
            _add_outer(total, _raise(left, statistic), _raise(right, statistic))

    # Observers come before the rules: they see the gradient that all rules have changed.
    with observed_outputs(modules, see), attribution_rules(model, family, composite):
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


def _backward(
    model: nn.Module, family: Family, batch: TokenBatch, target: Target | TokenMass, seed: int
) -> None:
    """Run the batch forwards and the target's gradient backwards, for the observers to see."""
    states, find_directions = predict(model, family, batch)
    directions = find_directions(target, seed)
    if len(states):
        torch.autograd.backward([states], [directions])


def predict(
    model: nn.Module, family: Family, batch: TokenBatch
) -> tuple[torch.Tensor, Callable[[Target | TokenMass, int], torch.Tensor]]:
    """Run the batch forwards; return the states `(position, hidden)` that predict a token.

    And what gives a target's direction at each of them, by its seed, see `compute_directions`.
    """
    placed = batch.to(input_device(model))
    backbone = model.get_submodule(family.backbone)
    hidden = backbone(input_ids=placed.token_ids, use_cache=False).last_hidden_state
    positions = find_target_positions(placed)
    states = hidden[positions.to(hidden.device)]
    head = head_weight(model, family).detach()

    def find_directions(target: Target | TokenMass, seed: int) -> torch.Tensor:
        return compute_directions(states.detach(), placed, positions, head, target, seed)

    return states, find_directions


def input_device(model: nn.Module) -> torch.device:
    """Return the device that token ids belong on: the embedding's."""
    embedding: Callable[[], nn.Module] = model.get_input_embeddings  # type: ignore[assignment]
    weight = embedding().weight
    assert isinstance(weight, torch.Tensor)
    return weight.device
