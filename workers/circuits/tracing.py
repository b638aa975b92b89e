"""Activations of a task with the gradient of its metric, handed on module by module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager

import torch
from torch import nn

from excise.names import CircuitContrast, CircuitMetric
from workers.attribution.accumulation import NonFiniteRelevanceError
from workers.attribution.composites import Composite, attribution_rules
from workers.circuits.measurement import RowBatch, compute_last_states, compute_metric_directions
from workers.circuits.sites import Site, has_weights, read_inputs, replaced_inputs
from workers.models.hooks import OutputHook, hooked
from workers.models.loaded import LoadedModel

Take = Callable[[str, torch.Tensor, torch.Tensor], None]
"""Gets a module's name, its (contrasted) input and a gradient, each `(row, token, feature)`."""

_TakeAny = Callable[[str, torch.Tensor, torch.Tensor | None], None]


def trace_gradients(
    loaded: LoadedModel,
    composite: Composite,
    sites: Mapping[str, Site],
    batch: RowBatch,
    metric: CircuitMetric,
    others: Mapping[str, torch.Tensor],
    take: Take,
) -> None:
    """Call `take` with every site's input and a gradient of the summed metric.

    Of neurons and heads it is the gradient to that input, of weights the one to their module's
    output; modules that none reaches (CP-LRP stops it at queries and keys) are passed over.
    The clean prompts are read, the gradient follows `composite`; `others` (`read_contrast`)
    is subtracted from the inputs. Raises `NonFiniteRelevanceError` naming module and rows.
    """
    checked = _checked(take, batch)
    rules: AbstractContextManager[None] = attribution_rules(loaded, composite)
    # Inputs after the rules: what is seen is the gradient before the product rule. Outputs
    # before them: the gradient that the weight itself gets.
    if has_weights(sites):
        order = [_traced_outputs(sites, others, checked), rules]
    else:
        order = [rules, _traced_inputs(sites, others, checked)]
    with ExitStack() as stack:
        for context in order:
            stack.enter_context(context)
        _backward(loaded, batch, metric)


def read_contrast(
    loaded: LoadedModel,
    sites: Mapping[str, Site],
    batch: RowBatch,
    contrast: CircuitContrast,
) -> Mapping[str, torch.Tensor]:
    """Return the inputs to subtract per module, `(row, token, feature)`; none for zero."""
    if contrast is CircuitContrast.ZERO:
        return {}
    return read_inputs(loaded, sites, batch.corrupted_ids)


def _backward(loaded: LoadedModel, batch: RowBatch, metric: CircuitMetric) -> None:
    states = compute_last_states(loaded, batch.clean_ids, batch.last)
    directions = compute_metric_directions(loaded, states, batch.rows, metric)
    torch.autograd.backward([states], [directions])


def _checked(take: Take, batch: RowBatch) -> _TakeAny:
    def check(name: str, values: torch.Tensor, gradient: torch.Tensor | None) -> None:
        if gradient is None:  # a rule stops the gradient right behind this module
            return
        if not bool(torch.isfinite(gradient).all() & torch.isfinite(values).all()):
            raise NonFiniteRelevanceError(
                f"non-finite relevance at {name} in rows {list(batch.indices)}"
            )
        take(name, values.float(), gradient.float())

    return check


def _traced_inputs(
    sites: Mapping[str, Site], others: Mapping[str, torch.Tensor], take: _TakeAny
) -> AbstractContextManager[None]:
    def trace(name: str, values: torch.Tensor) -> torch.Tensor:
        values = _start_graph(values)
        difference = _subtract(values.detach(), others.get(name))
        values.register_hook(lambda gradient: take(name, difference, gradient))
        return values

    return replaced_inputs(sites, trace)


@contextmanager
def _traced_outputs(
    sites: Mapping[str, Site], others: Mapping[str, torch.Tensor], take: _TakeAny
) -> Iterator[None]:
    def hook_for(
        name: str,
    ) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]:
        def hook(
            module: nn.Module,  # noqa: ARG001
            args: tuple[torch.Tensor, ...],
            output: torch.Tensor,
        ) -> torch.Tensor:
            output = _start_graph(output)
            difference = _subtract(args[0].detach(), others.get(name))
            output.register_hook(lambda gradient: take(name, difference, gradient))
            return output

        return hook

    with hooked(OutputHook(site.module, hook_for(name)) for name, site in sites.items()):
        yield


def _start_graph(values: torch.Tensor) -> torch.Tensor:
    """In the lowest layer the graph starts here: nothing below needs a backward pass."""
    return values if values.requires_grad else values.detach().requires_grad_()


def _subtract(values: torch.Tensor, other: torch.Tensor | None) -> torch.Tensor:
    return values if other is None else values - other
