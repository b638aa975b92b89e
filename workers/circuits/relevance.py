"""One score a component: its relevance for a task by any attributor, over the task's rows."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from excise.names import Attributor, CircuitContrast, Granularity
from workers.attribution.attribution import Attribution
from workers.attribution.attributors import compute_relevance
from workers.attribution.baselines import column_norms, score_by_inputs
from workers.attribution.composites import COMPOSITES
from workers.attribution.targets import Target
from workers.circuits.measurement import build_row_batches
from workers.circuits.sites import Site, has_weights, read_inputs, sum_by_component
from workers.circuits.tasks import Task
from workers.circuits.tracing import read_contrast, trace_gradients
from workers.families import linear_weight
from workers.models.loaded import LoadedModel
from workers.progress import Advance, ignore

BATCH_TOKENS = 1024
"""Padded tokens a batch."""

_POWERS = {Attributor.ACTIVATION: 1, Attributor.WANDA: 2}
"""Attributors that look at activations alone, and the power they sum."""


class _Sums(dict[str, torch.Tensor]):
    """Module name → a running sum."""

    def add(self, name: str, values: torch.Tensor) -> None:
        self[name] = self[name] + values if name in self else values


def compute_scores(
    loaded: LoadedModel,
    attributor: Attributor,
    sites: Mapping[str, Site],
    task: Task,
    contrast: CircuitContrast,
    *,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    advance: Advance = ignore,
) -> dict[str, torch.Tensor]:
    """Return module → score of each component for the task, float32 on the CPU.

    Neurons and heads `(component,)`, weights in their stored layout. LRP and gradient: the mean
    over rows of the signed relevance of the metric at the last position, summed over positions;
    of weights W ∘ Σ gradient ⊗ input (Eq. 8 of arXiv 2506.13727; one product at the end, one
    matrix held for each module). Activation and Wanda: the mean and the root mean square over
    tokens of what a component writes, `|a| · ‖W[:, j]‖₂`, for a head the norm of that over its
    features, for a weight |W| · |x|; with contrast `CORRUPTED` their input, too, is the
    difference to the corrupted prompt. Magnitude and random look at no row. `advance` is called
    with the number of rows of every finished batch.

    Raises `NonFiniteRelevanceError`.
    """
    if attributor in (Attributor.MAGNITUDE, Attributor.RANDOM):
        advance(len(task.rows))
        return _score_blindly(loaded, attributor, sites, seed)
    if attributor in _POWERS:
        power = _POWERS[attributor]
        means = _average_written(loaded, sites, task, contrast, power, batch_tokens, advance)
        return {
            name: _finish_written(site, means[name].pow(1 / power)) for name, site in sites.items()
        }
    sums = _Sums()

    def take(name: str, values: torch.Tensor, gradient: torch.Tensor) -> None:
        sums.add(name, _sum_relevance(sites[name], values, gradient) / len(task.rows))

    composite = COMPOSITES[attributor.value]
    for batch in build_row_batches(task.rows, batch_tokens, loaded):
        others = read_contrast(loaded, sites, batch, contrast)
        trace_gradients(loaded, composite, sites, batch, task.metric, others, take)
        advance(len(batch.rows))
    # Where no gradient came (queries and keys under CP-LRP) there is no relevance.
    nothing = torch.zeros(())
    return {name: _finish_relevance(site, sums.get(name, nothing)) for name, site in sites.items()}


def _sum_relevance(site: Site, values: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """Return a batch's relevance, of weights still to be multiplied by them."""
    if site.granularity is not Granularity.WEIGHT:
        return sum_by_component((values * gradient).sum(dim=(0, 1)), site.width)
    inputs, outputs = values.flatten(0, 1), gradient.flatten(0, 1)
    return outputs.T @ inputs if site.row_axis == 0 else inputs.T @ outputs


def _finish_relevance(site: Site, total: torch.Tensor) -> torch.Tensor:
    return (_weight(site) * total if site.granularity is Granularity.WEIGHT else total).cpu()


def _finish_written(site: Site, mean: torch.Tensor) -> torch.Tensor:
    """Return what components write; of weights `mean` is that of their inputs, `(feature,)`."""
    if site.granularity is not Granularity.WEIGHT:
        return mean.cpu()
    return score_by_inputs(site.module, mean).cpu()


@torch.no_grad()
def _average_written(
    loaded: LoadedModel,
    sites: Mapping[str, Site],
    task: Task,
    contrast: CircuitContrast,
    power: int,
    batch_tokens: int,
    advance: Advance,
) -> dict[str, torch.Tensor]:
    """Return the mean over tokens of (|input| · norm)^power, `(component,)`.

    A feature's norm is that of what it writes; for weights each feature of the input counts.
    """
    norms = {} if has_weights(sites) else {n: column_norms(s.module) for n, s in sites.items()}
    sums = _Sums()
    for batch in build_row_batches(task.rows, batch_tokens, loaded):
        others = read_contrast(loaded, sites, batch, contrast)
        for name, values in read_inputs(loaded, sites, batch.clean_ids).items():
            difference = values - others[name] if others else values
            real = difference[batch.is_token.to(difference.device)].float()
            written = real * norms.get(name, 1.0)
            squares = sum_by_component(written.square(), sites[name].width)
            sums.add(name, squares.pow(power / 2).sum(dim=0))
        advance(len(batch.rows))
    tokens = sum(len(row.clean_ids) for row in task.rows)
    return {name: total / tokens for name, total in sums.items()}


def _score_blindly(
    loaded: LoadedModel,
    attributor: Attributor,
    sites: Mapping[str, Site],
    seed: int,
) -> dict[str, torch.Tensor]:
    scores: dict[str, torch.Tensor] = {}
    kinds = dict.fromkeys(site.granularity for site in sites.values())
    for offset, granularity in enumerate(kinds):
        relevance = compute_relevance(
            loaded, Attribution(attributor, granularity, Target.TOP_LOGIT, seed=seed + offset), ()
        )
        scores |= relevance.mean
    return scores


def _weight(site: Site) -> torch.Tensor:
    return linear_weight(site.module).detach().float()
