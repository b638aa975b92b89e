"""Scores: relevance on two sets becomes one number a component; the largest is pruned first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from excise.names import Score
from workers.domain import GeneralCost, Relevance
from workers.pruning.damage import compute_divergence, predict_damage

COST_FLOOR = 0.1
"""Share of the mean cost that is added to every cost, so that a component without any does not
win whatever its benefit. Chosen by hand; not measured."""

DIVERGENCE_FLOOR = 0.05
"""The same for predicted damage, as a share of the mean predicted divergence. Chosen by hand;
larger floors were measured and are no better: on SmolLM2 against toxicity, at about the same KL,
5 and 25 times as much (0.25 and 1.25) left as many toxic responses or more, with fewer weights
pruned (benchmarks/RESULTS.md, "floor of the cost")."""


def compute_scores(
    general: Relevance | GeneralCost,
    benefit: Mapping[str, torch.Tensor],
    score: Score,
    cost_weight: float = 1.0,
    floor: float | None = None,
) -> dict[str, torch.Tensor]:
    """Return module → score, shaped as the components, from what `benefit` each removal brings.

    `benefit` is mean relevance for the undesired behaviour, of the modules to choose from.
    `general` is a `GeneralCost` for `BENEFIT_DAMAGE`, `Relevance` for the other scores.
    `cost_weight` is the exponent of what the benefit is divided by; the signed difference
    ignores it. The scores are float64: a quotient of two float32 numbers is always finite there.
    `floor` is what `compute_floor` returns; callers that rank several benefits compute it once.
    Raises `ValueError` on a module without general relevance, and where `general` is not what
    the score needs.
    """
    if isinstance(general, GeneralCost) is not (score is Score.BENEFIT_DAMAGE):
        raise ValueError(f"{score.value} cannot be computed from a {type(general).__name__}")
    covered = general.first_order if isinstance(general, GeneralCost) else general.mean
    if not benefit.keys() <= covered.keys():
        raise ValueError("general relevance does not cover every module of the undesired one")
    if score is Score.SIGNED_DIFFERENCE:
        return {name: own.double() - covered[name].double() for name, own in benefit.items()}
    if floor is None:
        floor = compute_floor(general, score)
    return _divide(benefit, lambda name: _compute_cost(general, name), floor, cost_weight)


def combine_benefits(
    benefits: Sequence[Mapping[str, torch.Tensor]], scales: Sequence[float] | None = None
) -> dict[str, torch.Tensor]:
    """Return one benefit for several behaviours, all with the same weight.

    Each behaviour's benefit is divided by the sum of its positive entries and then added, so that
    the scale of its relevance does not matter. Negative entries stay: they protect a component
    that suppresses one behaviour from being removed for another. `scales` are these sums where
    the benefits are of some components only.
    """
    if len(benefits) == 1:
        return dict(benefits[0])
    sums = [sum_positive(benefit) for benefit in benefits] if scales is None else scales
    weights = [1 / total if total > 0 else 0.0 for total in sums]
    combined = {name: values * weights[0] for name, values in benefits[0].items()}
    for benefit, weight in zip(benefits[1:], weights[1:], strict=True):
        for name, values in combined.items():
            values.add_(benefit[name], alpha=weight)
    return combined


def sum_positive(benefit: Mapping[str, torch.Tensor]) -> float:
    """Return the sum of a benefit's positive entries."""
    return sum(float(values.clamp(min=0).sum(dtype=torch.float64)) for values in benefit.values())


@dataclass(frozen=True)
class CostTotal:
    """Costs added up over components, for a floor that is a share of their mean."""

    cost: float = 0.0
    components: int = 0

    def __add__(self, other: CostTotal) -> CostTotal:
        return CostTotal(self.cost + other.cost, self.components + other.components)

    def find_floor(self, score: Score) -> float:
        """Return what the score adds to the cost of every component."""
        if score is Score.SIGNED_DIFFERENCE or not self.components:
            return 0.0
        share = DIVERGENCE_FLOOR * 0.5 if score is Score.BENEFIT_DAMAGE else COST_FLOOR
        return share * self.cost / self.components


def sum_costs(general: Relevance | GeneralCost) -> CostTotal:
    """Return the total of what floors are shares of: a pass over all components."""
    values = general.fisher if isinstance(general, GeneralCost) else general.mean_absolute
    total = sum(float(tensor.sum(dtype=torch.float64)) for tensor in values.values())
    return CostTotal(total, sum(tensor.numel() for tensor in values.values()))


def compute_floor(general: Relevance | GeneralCost, score: Score) -> float:
    """Return what the score adds to the cost of every component: a pass over all components."""
    if score is Score.SIGNED_DIFFERENCE:
        return 0.0
    return sum_costs(general).find_floor(score)


def _compute_cost(general: Relevance | GeneralCost, module: str) -> torch.Tensor:
    """Return what removing each of a module's components costs, float64, before the floor."""
    if isinstance(general, GeneralCost):
        divergence = compute_divergence(general.fisher[module])
        return predict_damage(general.first_order[module], divergence)
    return general.mean_absolute[module].double()


def _divide(
    benefit: Mapping[str, torch.Tensor],
    cost: Callable[[str], torch.Tensor],
    floor: float,
    cost_weight: float,
) -> dict[str, torch.Tensor]:
    def score(module: str) -> torch.Tensor:
        useful = benefit[module].double().clamp_(min=0)
        if floor == 0:  # nothing general flows anywhere, all costs are 0: the benefit decides
            return useful
        costs = cost(module).add_(floor)
        return useful.div_(costs if cost_weight == 1 else costs.pow_(cost_weight))

    return {module: score(module) for module in benefit}
