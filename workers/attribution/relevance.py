"""Relevance of MLP neurons, streamed over batches: one forward and one backward pass each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from workers.attribution.composites import Composite, attribution_rules
from workers.attribution.targets import Target, compute_target_directions, find_target_positions
from workers.batches import TokenBatch
from workers.domain import Relevance
from workers.families import Family, find_mlp_outputs, head_weight
from workers.progress import Advance


class NonFiniteRelevanceError(ArithmeticError):
    """Relevance became NaN or infinite; use float32, or look at the named samples."""


class _Accumulator:
    """Running sums of relevance and |relevance| over tokens, per module, in float32."""

    def __init__(self, modules: Mapping[str, nn.Linear]) -> None:
        self.sums = {name: _zeros(module) for name, module in modules.items()}
        self.absolute_sums = {name: _zeros(module) for name, module in modules.items()}
        self.tokens = 0
        self.samples = 0
        self.batch: TokenBatch | None = None

    def start_batch(self, batch: TokenBatch) -> None:
        self.batch = batch
        self.tokens += int(batch.is_token.sum())
        self.samples += len(batch.sample_indices)

    def add(self, name: str, activation: torch.Tensor, gradient: torch.Tensor) -> None:
        """Fold in activation · gradient `(sample, token, feature)`; zero at pads by itself."""
        relevance = activation.float() * gradient.float()
        total = relevance.sum(dim=(0, 1))
        absolute = relevance.abs().sum(dim=(0, 1))
        if not bool(torch.isfinite(absolute).all()):
            assert self.batch is not None
            raise NonFiniteRelevanceError(
                f"non-finite relevance at {name} in samples {list(self.batch.sample_indices)}"
            )
        self.sums[name] += total
        self.absolute_sums[name] += absolute

    def result(self) -> Relevance:
        if self.tokens == 0:
            raise ValueError("no reference samples: relevance needs at least one token")
        return Relevance(
            mean={name: (value / self.tokens).cpu() for name, value in self.sums.items()},
            mean_absolute={
                name: (value / self.tokens).cpu() for name, value in self.absolute_sums.items()
            },
            tokens=self.tokens,
            samples=self.samples,
        )


def _zeros(module: nn.Linear) -> torch.Tensor:
    return torch.zeros(module.in_features, dtype=torch.float32, device=module.weight.device)


def compute_neuron_relevance(
    model: nn.Module,
    family: Family,
    composite: Composite,
    batches: Iterable[TokenBatch],
    target: Target,
    on_batch: Advance | None = None,
) -> Relevance:
    """Return the relevance statistics of every MLP neuron over the tokens of `batches`.

    A neuron's relevance at a token is `a · ∂L/∂a` at the input of the MLP's output projection
    (Eq. 8 with the neuron as component), L the sum of `target` over the predicted positions
    and the gradient following `composite`. Memory does not grow with the number of batches.

    Raises `NonFiniteRelevanceError` and, without a single token, `ValueError`.
    """
    modules = find_mlp_outputs(model, family)
    accumulator = _Accumulator(modules)
    # The capturing hooks come after the rules': they see the gradient before the product rule.
    with attribution_rules(model, family, composite), _captured(modules, accumulator):
        for batch in batches:
            placed = batch.to(next(model.parameters()).device)
            accumulator.start_batch(placed)
            _backward(model, family, placed, target)
            if on_batch is not None:
                on_batch(len(batch.sample_indices))
    return accumulator.result()


@contextmanager
def _captured(modules: Mapping[str, nn.Linear], accumulator: _Accumulator) -> Iterator[None]:
    handles = [
        module.register_forward_pre_hook(_capture_hook(name, accumulator))
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _capture_hook(
    name: str, accumulator: _Accumulator
) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]:
    def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:  # noqa: ARG001
        activation = args[0]
        if not activation.requires_grad:
            # The lowest layer: the graph starts here, nothing below needs a backward pass.
            activation = activation.detach().requires_grad_()
        values = activation.detach()
        activation.register_hook(lambda gradient: accumulator.add(name, values, gradient))
        return (activation, *args[1:])

    return hook


def _backward(model: nn.Module, family: Family, batch: TokenBatch, target: Target) -> None:
    backbone = model.get_submodule(family.backbone)
    hidden = backbone(input_ids=batch.token_ids, use_cache=False).last_hidden_state
    positions = find_target_positions(batch)
    next_ids = batch.token_ids.roll(-1, dims=1)[positions]
    states = hidden[positions]
    directions = compute_target_directions(
        states.detach(), next_ids, head_weight(model, family).detach(), target
    )
    if len(states):
        torch.autograd.backward([states], [directions])
