"""Activations on a task's rows and the gradient of its metric, passed on module by module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch

from excise.names import CircuitContrast, CircuitMetric
from workers.attribution.accumulation import NonFiniteRelevanceError
from workers.attribution.composites import Composite, attribution_rules
from workers.attribution.observation import See, Site, observed_gradients, observed_outputs
from workers.circuits.measurement import RowBatch, compute_last_states, compute_metric_directions
from workers.circuits.projections import Projection, has_weights, read_inputs
from workers.models.loaded import LoadedModel

Take = Callable[[str, torch.Tensor, torch.Tensor], None]
"""Takes a module's name, its (contrasted) input and a gradient, each `(row · token, feature)`."""


def trace_gradients(
    loaded: LoadedModel,
    composite: Composite,
    projections: Mapping[str, Projection],
    batch: RowBatch,
    metric: CircuitMetric,
    others: Mapping[str, torch.Tensor],
    take: Take,
) -> None:
    """Call `take` with each projection's input and a gradient of the metric summed over rows.

    For neurons and heads it is the gradient with respect to that input; for single weights, with
    respect to the module's output. Modules that no gradient reaches (CP-LRP stops it at queries
    and keys) are skipped. The model reads the clean prompts, the backward pass follows the rules
    of `composite`, and `others` (from `read_contrast`) is subtracted from the inputs. Raises
    `NonFiniteRelevanceError`, naming module and rows.
    """
    see = _contrast(others, batch, take)
    modules = {name: projection.module for name, projection in projections.items()}
    rules = attribution_rules(loaded, composite)
    # Observers of inputs enter after the rules, to see the gradient before the product rule;
    # observers of outputs enter before them, to see the gradient that the weight itself gets.
    if has_weights(projections):
        order = [observed_outputs(modules, see), rules]
    else:
        order = [rules, observed_gradients(modules, see)]
    with ExitStack() as stack:
        for context in order:
            stack.enter_context(context)
        _backward(loaded, batch, metric)


def read_contrast(
    loaded: LoadedModel,
    projections: Mapping[str, Projection],
    batch: RowBatch,
    contrast: CircuitContrast,
) -> Mapping[str, torch.Tensor]:
    """Return module → input to subtract, as `read_inputs` does; empty for contrast `ZERO`."""
    if contrast is CircuitContrast.ZERO:
        return {}
    return read_inputs(loaded, projections, batch.corrupted_ids)


def _backward(loaded: LoadedModel, batch: RowBatch, metric: CircuitMetric) -> None:
    states = compute_last_states(loaded, batch.clean_ids, batch.last)
    directions = compute_metric_directions(loaded, states, batch.rows, metric)
    torch.autograd.backward([states], [directions])


def _contrast(others: Mapping[str, torch.Tensor], batch: RowBatch, take: Take) -> See:
    """Return an observer that subtracts `others` from inputs, checks them and calls `take`."""

    def see(site: Site, values: torch.Tensor, gradient: torch.Tensor) -> None:
        if site.module in others:
            values = values - others[site.module].reshape(values.shape)
        if not bool(torch.isfinite(gradient).all() & torch.isfinite(values).all()):
            raise NonFiniteRelevanceError(
                f"non-finite relevance at {site.module} in rows {list(batch.sample_indices)}"
            )
        take(site.module, values.float(), gradient.float())

    return see
