"""One score a component: its relevance for a task by any attributor, over the task's rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from workers.attribution.composites import COMPOSITES
from workers.circuits.doubles import Attributor, linear_weight
from workers.circuits.measurement import build_row_batches, find_device, ignore
from workers.circuits.sites import Site, read_inputs, sum_by_component
from workers.circuits.tasks import Task
from workers.circuits.tracing import Contrast, read_contrast, trace_linears, trace_nodes
from workers.families import Family
from workers.progress import Advance

BATCH_TOKENS = 1024
"""Padded tokens a batch."""

_POWERS = {Attributor.ACTIVATION: 1, Attributor.WANDA: 2}
"""Attributors that look at activations alone, and the power they sum."""


class _Sums(dict[str, torch.Tensor]):
    """Module name → a running sum."""

    def add(self, name: str, values: torch.Tensor) -> None:
        self[name] = self[name] + values if name in self else values


def compute_node_scores(
    model: nn.Module,
    family: Family,
    attributor: Attributor,
    sites: Mapping[str, Site],
    task: Task,
    contrast: Contrast,
    pad_id: int,
    *,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    advance: Advance = ignore,
) -> dict[str, torch.Tensor]:
    """Return module → score `(component,)` for the task, float32 on the CPU.

    LRP and gradient: the mean over rows of the signed relevance of the metric at the last
    position, summed over positions. Activation: mean |a| · ‖W[:, j]‖ over tokens, summed over
    a head's features; Wanda: ‖a‖₂ · ‖W[:, j]‖₂, the norm of a component's entries of |W| · ‖X‖₂
    (arXiv 2306.11695); with contrast `CORRUPTED` their `a`, too, is the difference to the
    corrupted prompt. Magnitude and random look at no row. `advance` is called with the number
    of rows of every finished batch.

    Raises `NonFiniteRelevanceError`.
    """
    if attributor in (Attributor.MAGNITUDE, Attributor.RANDOM):
        advance(len(task.rows))
        return _score_nodes_blindly(attributor, sites, seed)
    if attributor in _POWERS:
        power = _POWERS[attributor]
        means = _average_inputs(
            model, family, sites, task, contrast, power, pad_id, batch_tokens, advance
        )
        return {name: _weigh_nodes(site, means[name], power) for name, site in sites.items()}
    sums = _Sums()
    for batch in build_row_batches(task.rows, batch_tokens, pad_id, find_device(model)):
        trace_nodes(
            model,
            family,
            COMPOSITES[attributor.value],
            sites,
            batch,
            task.metric,
            read_contrast(model, family, sites, batch, contrast),
            lambda name, values, gradient: sums.add(name, (values * gradient).sum(dim=(0, 1))),
        )
        advance(len(batch.rows))
    return {
        name: (sum_by_component(sums[name], site.width) / len(task.rows)).cpu()
        for name, site in sites.items()
    }


def compute_weight_scores(
    model: nn.Module,
    family: Family,
    attributor: Attributor,
    sites: Mapping[str, Site],
    task: Task,
    contrast: Contrast,
    pad_id: int,
    *,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    advance: Advance = ignore,
) -> dict[str, torch.Tensor]:
    """Return linear module → score of each weight in its stored layout, float32 on the CPU.

    LRP and gradient: W ∘ Σ gradient ⊗ input, the mean over rows (Eq. 8 of arXiv 2506.13727;
    one product at the end); Wanda |W| · ‖X‖₂, activation |W| · mean |X|, with the input
    contrasted as in `compute_node_scores`. Magnitude is |W|; it and random look at no row.
    Holds one matrix for each module.

    Raises `NonFiniteRelevanceError`.
    """
    if attributor in (Attributor.MAGNITUDE, Attributor.RANDOM):
        advance(len(task.rows))
        return _score_weights_blindly(attributor, sites, seed)
    if attributor in _POWERS:
        power = _POWERS[attributor]
        means = _average_inputs(
            model, family, sites, task, contrast, power, pad_id, batch_tokens, advance
        )
        return {
            name: (_weight(site).abs() * _along_inputs(site, means[name].pow(1 / power))).cpu()
            for name, site in sites.items()
        }
    sums = _Sums()
    for batch in build_row_batches(task.rows, batch_tokens, pad_id, find_device(model)):
        trace_linears(
            model,
            family,
            COMPOSITES[attributor.value],
            {name: site.module for name, site in sites.items()},
            batch,
            task.metric,
            read_contrast(model, family, sites, batch, contrast),
            lambda name, values, gradient: sums.add(
                name, _outer(sites[name], values, gradient) / len(task.rows)
            ),
        )
        advance(len(batch.rows))
    return {
        name: (_weight(site) * sums[name]).cpu()
        if name in sums
        else torch.zeros(linear_weight(site.module).shape)
        for name, site in sites.items()
    }


def compute_input_norms(site: Site) -> torch.Tensor:
    """Return the norm of what each input feature of the module writes, `(feature,)`."""
    norms: torch.Tensor = torch.linalg.vector_norm(_weight(site), dim=site.row_axis)
    return norms


def _average_inputs(
    model: nn.Module,
    family: Family,
    sites: Mapping[str, Site],
    task: Task,
    contrast: Contrast,
    power: int,
    pad_id: int,
    batch_tokens: int,
    advance: Advance,
) -> dict[str, torch.Tensor]:
    """Return the mean over tokens of |input|^power of every site, `(feature,)`."""
    sums = _Sums()
    for batch in build_row_batches(task.rows, batch_tokens, pad_id, find_device(model)):
        others = read_contrast(model, family, sites, batch, contrast)
        for name, values in read_inputs(model, family, sites, batch.clean_ids).items():
            difference = values - others[name] if others else values
            powered = difference[batch.is_token].float().abs() ** power
            sums.add(name, powered.sum(dim=0))
        advance(len(batch.rows))
    tokens = sum(len(row.clean_ids) for row in task.rows)
    return {name: total / tokens for name, total in sums.items()}


def _weigh_nodes(site: Site, means: torch.Tensor, power: int) -> torch.Tensor:
    weighed = means * compute_input_norms(site).pow(power)
    return sum_by_component(weighed, site.width).pow(1 / power).cpu()


def _score_nodes_blindly(
    attributor: Attributor, sites: Mapping[str, Site], seed: int
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if attributor is Attributor.RANDOM:
        return {
            name: torch.rand(site.components, generator=generator) for name, site in sites.items()
        }
    return {
        name: _weigh_nodes(site, torch.ones((), device=_weight(site).device), 2)
        for name, site in sites.items()
    }


def _score_weights_blindly(
    attributor: Attributor, sites: Mapping[str, Site], seed: int
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if attributor is Attributor.RANDOM:
        return {
            name: torch.rand(_weight(site).shape, generator=generator)
            for name, site in sites.items()
        }
    return {name: _weight(site).abs().cpu() for name, site in sites.items()}


def _weight(site: Site) -> torch.Tensor:
    return linear_weight(site.module).detach().float()


def _along_inputs(site: Site, values: torch.Tensor) -> torch.Tensor:
    return values[None, :] if site.row_axis == 0 else values[:, None]


def _outer(site: Site, values: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Return Σ gradient ⊗ input over rows and tokens in the weight's stored layout."""
    inputs, outputs = values.flatten(0, 1), gradient.flatten(0, 1)
    return outputs.T @ inputs if site.row_axis == 0 else inputs.T @ outputs
