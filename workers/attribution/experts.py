"""The seams inside fused experts, around act(gate) · up, on one instance and undone on exit.

transformers keeps a layer's experts as two parameters, so what lies between them is no module's
input or output. Its batched implementations compute the product that holds the neurons in the
method `_apply_gate`; the eager one does not, and is replaced for the time by an equal loop that
does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional


class UnsupportedExpertsError(ValueError):
    """The experts run in a way without a seam; load the model with another implementation."""


@dataclass(frozen=True)
class Rows:
    """What each row belongs to."""

    experts: torch.Tensor
    tokens: torch.Tensor
    """Counted over the padded batch."""
    ranks: torch.Tensor
    """Which of the token's choices, counted from 0, the expert is."""


class Seam:
    """What is done with the rows that pass through experts; here nothing.

    What a method returns goes on in place of what it was given. In one forward pass `begin` is
    called first, `end` last, and the others in between: once, or once an expert.
    """

    def begin(self, hidden: torch.Tensor, weights: torch.Tensor) -> None:
        """See what the experts read, `(token, hidden)`, and the weights, `(token, rank)`."""

    def gate_and_up(self, values: torch.Tensor, rows: Rows) -> torch.Tensor:  # noqa: ARG002
        """See what gate and up projections write, `(row, 2 · feature)`."""
        return values

    def neurons(self, values: torch.Tensor, rows: Rows) -> torch.Tensor:  # noqa: ARG002
        """See act(gate) · up, `(row, feature)`, which the output projections read."""
        return values

    def end(self, output: torch.Tensor) -> torch.Tensor:
        """See what all experts write together, `(token, hidden)`."""
        return output


_IS_SEAM = "is_excise_seam"

Transform = Callable[[torch.Tensor, Rows], torch.Tensor]
"""Called with the neurons `(row, feature)`; what it returns goes on to the output projections."""


class _Products(Seam):
    """Neurons that pass through a function."""

    def __init__(self, transform: Transform) -> None:
        self._transform = transform

    def neurons(self, values: torch.Tensor, rows: Rows) -> torch.Tensor:
        return self._transform(values, rows)


@contextmanager
def transformed_products(experts: nn.Module, transform: Transform) -> Iterator[None]:
    """Within the context, the neurons of `experts` pass through `transform`.

    Nests and raises as `opened_seam` does.
    """
    with opened_seam(experts, _Products(transform)):
        yield


@contextmanager
def opened_seam(experts: nn.Module, seam: Seam) -> Iterator[None]:
    """Within the context, what passes through `experts` passes through `seam`.

    Contexts nest; of neurons and outputs a later one sees what an earlier one returned, of what
    gate and up projections write an earlier one what a later one returned. Raises
    `UnsupportedExpertsError`.
    """
    own = dict(vars(experts))
    apply_gate: Callable[[torch.Tensor], torch.Tensor] = experts._apply_gate  # type: ignore[assignment]
    forward: Callable[..., torch.Tensor] | None = own.get("forward")
    if forward is None or not hasattr(forward, _IS_SEAM):  # accelerate wraps forward, too
        forward = _find_forward(experts)
    plan: Iterator[Rows] = iter(())

    def gated(values: torch.Tensor) -> torch.Tensor:
        rows = next(plan)
        return seam.neurons(apply_gate(seam.gate_and_up(values, rows)), rows)

    def planned(hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        nonlocal plan
        plan = _plan_rows(experts, index)
        seam.begin(hidden, weights)
        return seam.end(forward(hidden, index, weights))

    setattr(planned, _IS_SEAM, True)
    experts._apply_gate = gated  # type: ignore[assignment]
    experts.forward = planned
    try:
        yield
    finally:
        for name in ("_apply_gate", "forward"):
            if name in own:
                setattr(experts, name, own[name])
            else:
                delattr(experts, name)


def _implementation(experts: nn.Module) -> str:
    return str(experts.config._experts_implementation)  # type: ignore[union-attr]


def _find_forward(experts: nn.Module) -> Callable[..., torch.Tensor]:
    implementation = _implementation(experts)
    if implementation == "eager":
        return lambda *args: _run_one_by_one(experts, *args)
    if implementation in ("grouped_mm", "batched_mm"):
        return experts.forward
    raise UnsupportedExpertsError(
        f"experts run by {implementation} cannot be attributed; call "
        'model.set_experts_implementation("grouped_mm") first'
    )


def _plan_rows(experts: nn.Module, index: torch.Tensor) -> Iterator[Rows]:
    """Yield the rows of every product to come, in the order of the implementation."""
    chosen, choices = index.reshape(-1), index.shape[-1]
    if _implementation(experts) == "batched_mm":
        order = torch.arange(len(chosen), device=index.device)
        yield Rows(chosen, order // choices, order % choices)
        return
    if _implementation(experts) == "grouped_mm":
        ordered, order = torch.sort(chosen)
        yield Rows(ordered, order // choices, order % choices)
        return
    for expert in chosen.unique().tolist():
        ranks, tokens = _find_rows(index, expert)
        yield Rows(torch.full_like(tokens, expert), tokens, ranks)


def _find_rows(index: torch.Tensor, expert: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rank and token of every choice of `expert`, rank by rank."""
    rank, token = torch.where(index.T.eq(expert))
    return rank, token


def _run_one_by_one(
    experts: Any, hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Return what the eager implementation returns, bit for bit, through `_apply_gate`."""
    total = torch.zeros_like(hidden)
    for expert in index.unique().tolist():
        rank, token = _find_rows(index, expert)
        neurons = experts._apply_gate(
            functional.linear(hidden[token], experts.gate_up_proj[expert])
        )
        written = functional.linear(neurons, experts.down_proj[expert])
        written = written * weights[token, rank, None]
        total.index_add_(0, token, written.to(total.dtype))
    return total
