"""Where relevance is read: values and gradients at components, by hooks undone on exit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workers.attribution.experts import Rows, Seam, opened_seam, transformed_products
from workers.families import EXPERT_INPUTS, is_linear
from workers.models.hooks import InputHook, OutputHook, hooked

_Hook = Callable[..., Any]


@dataclass(frozen=True)
class Site:
    """A module whose components are observed; for fused experts, a single expert."""

    module: str
    expert: int | None = None


See = Callable[[Site, torch.Tensor, torch.Tensor], None]
"""Called with values `(row, feature)` and the gradient of the same shape."""

Look = Callable[[Site, torch.Tensor], None]
"""Called with values `(row, feature)` at real tokens."""


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Within the context no dropout is active; each module has its own training mode after it."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training  # `train` would set the children's, too


@contextmanager
def observed_gradients(modules: Mapping[str, nn.Module], see: See) -> Iterator[None]:
    """Within the context, backward passes show `see` each module's input and its gradient.

    To see the gradient before a rule at that input changes it, enter after the rules. The
    graph begins at the lowest of the inputs: nothing below costs a backward pass.
    """

    def transform_for(name: str) -> Callable[[torch.Tensor, Rows | None], torch.Tensor]:
        def transform(values: torch.Tensor, rows: Rows | None) -> torch.Tensor:
            kept = values if values.requires_grad else values.detach().requires_grad_()
            plain = kept.detach()

            def show(gradient: torch.Tensor | None) -> None:
                if gradient is None:  # a rule stopped it
                    return
                for site, part in _split(name, rows):
                    see(site, _flatten(plain)[part], _flatten(gradient)[part])

            kept.register_hook(show)
            return kept

        return transform

    with ExitStack() as stack:
        for name, module in modules.items():
            _enter(stack, module, transform_for(name))
        yield


@contextmanager
def observed_inputs(
    modules: Mapping[str, nn.Module], is_token: torch.Tensor, look: Look
) -> Iterator[None]:
    """Within the context, forward passes show `look` each module's input at real tokens.

    `is_token` `(sample, token)` belongs to the batch that the model is run on.
    """

    def transform_for(name: str) -> Callable[[torch.Tensor, Rows | None], torch.Tensor]:
        def transform(values: torch.Tensor, rows: Rows | None) -> torch.Tensor:
            real = is_token.flatten().to(values.device)
            if rows is not None:
                real = real[rows.tokens]
            for site, part in _split(name, rows):
                look(site, _flatten(values)[part][real[part]])
            return values

        return transform

    with ExitStack() as stack:
        for name, module in modules.items():
            if _reads_hidden(name, module):
                stack.enter_context(opened_seam(module, _HiddenStates(transform_for(name))))
            else:
                _enter(stack, module, transform_for(name))
        yield


@contextmanager
def observed_outputs(modules: Mapping[str, nn.Module], see: See) -> Iterator[None]:
    """Within the context, backward passes show `see` each module's input and output gradient.

    Enter before the rules, so that the gradient is what arrives after all of them. The
    output projection's input is held until then: the activations of one batch. For experts, a
    module stands for the parameter that its name ends with, and each expert is shown the rows
    of its own tokens.
    """

    def hook_for(site: Site) -> _Hook:
        def hook(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:  # noqa: ARG001
            inputs = args[0].detach()

            def show(gradient: torch.Tensor) -> None:
                see(site, _flatten(inputs), _flatten(gradient))

            return _watch_gradient(output, show)

        return hook

    with ExitStack() as stack:
        for name, module in modules.items():
            if is_linear(module):
                stack.enter_context(hooked([OutputHook(module, hook_for(Site(name)))]))
            elif _reads_hidden(name, module):
                stack.enter_context(opened_seam(module, _ReadMatrix(name, see)))
            else:
                stack.enter_context(opened_seam(module, _WrittenMatrix(name, see)))
        yield


class _HiddenStates(Seam):
    """Shows the states that each row's expert reads."""

    def __init__(self, look: Callable[[torch.Tensor, Rows], object]) -> None:
        self._look = look
        self._hidden = torch.empty(0)

    def begin(self, hidden: torch.Tensor, weights: torch.Tensor) -> None:  # noqa: ARG002
        self._hidden = hidden.detach()

    def gate_and_up(self, values: torch.Tensor, rows: Rows) -> torch.Tensor:
        self._look(self._hidden[rows.tokens], rows)
        return values


class _ReadMatrix(Seam):
    """Shows inputs and output gradients of the experts' gate and up projections."""

    def __init__(self, name: str, see: See) -> None:
        self._name = name
        self._see = see
        self._hidden = torch.empty(0)

    def begin(self, hidden: torch.Tensor, weights: torch.Tensor) -> None:  # noqa: ARG002
        self._hidden = hidden.detach()

    def gate_and_up(self, values: torch.Tensor, rows: Rows) -> torch.Tensor:
        hidden = self._hidden

        def show(gradient: torch.Tensor) -> None:
            for site, part in _split(self._name, rows):
                self._see(site, hidden[rows.tokens[part]], gradient[part])

        return _watch_gradient(values, show)


class _WrittenMatrix(Seam):
    """Shows inputs and output gradients of the experts' output projections.

    What a projection writes for a token is multiplied by the routing weight and added up, so
    its gradient is that of the sum, times the weight.
    """

    def __init__(self, name: str, see: See) -> None:
        self._name = name
        self._see = see
        self._weights = torch.empty(0)
        self._read: list[tuple[torch.Tensor, Rows]] = []

    def begin(self, hidden: torch.Tensor, weights: torch.Tensor) -> None:  # noqa: ARG002
        self._weights = weights.detach()
        self._read = []

    def neurons(self, values: torch.Tensor, rows: Rows) -> torch.Tensor:
        self._read.append((values.detach(), rows))
        return values

    def end(self, output: torch.Tensor) -> torch.Tensor:
        weights, read = self._weights, self._read

        def show(gradient: torch.Tensor) -> None:
            for values, rows in read:
                own = gradient[rows.tokens] * weights[rows.tokens, rows.ranks, None]
                own = own.to(gradient.dtype)
                for site, part in _split(self._name, rows):
                    self._see(site, values[part], own[part])

        return _watch_gradient(output, show)


def _watch_gradient(values: torch.Tensor, show: Callable[[torch.Tensor], None]) -> torch.Tensor:
    """Return `values`, whose gradient backward passes show; the graph may begin here."""
    kept = values if values.requires_grad else values.detach().requires_grad_()

    def hook(gradient: torch.Tensor | None) -> None:
        if gradient is not None:  # else a rule stopped it
            show(gradient)

    kept.register_hook(hook)
    return kept


def _reads_hidden(name: str, module: nn.Module) -> bool:
    """Return whether `name` stands for the gate and up projections of fused experts."""
    return not is_linear(module) and name.endswith(f".{EXPERT_INPUTS}")


def _enter(
    stack: ExitStack,
    module: nn.Module,
    transform: Callable[[torch.Tensor, Rows | None], torch.Tensor],
) -> None:
    """Let `transform` see the module's input: a linear module's own, or the experts' neurons."""
    if not is_linear(module):
        stack.enter_context(transformed_products(module, transform))
        return

    def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:  # noqa: ARG001
        return (transform(args[0], None), *args[1:])

    stack.enter_context(hooked([InputHook(module, hook)]))


def _split(name: str, rows: Rows | None) -> Iterator[tuple[Site, slice | torch.Tensor]]:
    if rows is None:
        yield Site(name), slice(None)
        return
    for expert in rows.experts.unique().tolist():
        yield Site(name, expert), (rows.experts == expert).nonzero().flatten()


def _flatten(values: torch.Tensor) -> torch.Tensor:
    """Return `(row, feature)`, whatever axes samples and tokens are spread over."""
    return values.reshape(-1, values.shape[-1])
