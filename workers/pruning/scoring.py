"""Scores: one number per component from its relevance on two sets; the largest is pruned first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from excise.names import Score
from workers.domain import GeneralCost, Relevance
from workers.pruning.damage import compute_divergence, predict_damage

COST_FLOOR = 0.1
"""This share of the mean cost is added to every cost, so that a component does not win merely
because its cost is 0. Chosen by hand; not measured."""

DIVERGENCE_FLOOR = 0.05
"""The same for predicted damage, as a share of the mean predicted divergence. Chosen by hand.
Larger floors were measured and are no better: on SmolLM2 against toxicity, at about the same KL,
0.25 and 1.25 left at least as many toxic responses, with fewer weights pruned
(benchmarks/RESULTS.md, "floor of the cost")."""


def compute_scores(
    general: Relevance | GeneralCost,
    benefit: Mapping[str, torch.Tensor],
    score: Score,
    cost_weight: float = 1.0,
    floor: float | None = None,
) -> dict[str, torch.Tensor]:
    """Return module → score of each component, float64, shaped like its benefit.

    `benefit` is the mean relevance for the undesired behaviour, in the modules to choose from.
    `general` is the cost side: a `GeneralCost` for `BENEFIT_DAMAGE`, a `Relevance` for the other
    scores. `cost_weight` is the exponent of the cost by which the benefit is divided; the signed
    difference ignores it. `floor` is added to every cost; None computes it by `compute_floor`,
    and callers that rank several benefits compute it once. In float64 the quotient of two
    float32 numbers is always finite. Raises `ValueError` for a module without general relevance
    and for a `general` of the wrong type.
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
    benefits: Sequence[Mapping[str, torch.Tensor]],
    scales: Sequence[float] | None = None,
    emphasis: Sequence[float] = (),
) -> dict[str, torch.Tensor]:
    """Return one benefit for several behaviours, each of which counts as `emphasis` says.

    Each behaviour's benefit is divided by the sum of its positive entries before they are added,
    so that the scale of its relevance does not matter; without `emphasis` all count the same.
    Negative entries are kept: they protect a component that suppresses one behaviour from being
    removed because of another. If the benefits cover only some of the components, `scales` gives
    the sums over all of them.
    """
    if len(benefits) == 1:
        return dict(benefits[0])
    sums = [sum_positive(benefit) for benefit in benefits] if scales is None else scales
    parts = zip(sums, emphasis or [1.0] * len(sums), strict=True)
    weights = [part / total if total > 0 else 0.0 for total, part in parts]
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
    """Sum of the costs of components, from which the floor is computed as a share of the mean."""

    cost: float = 0.0
    components: int = 0

    def __add__(self, other: CostTotal) -> CostTotal:
        return CostTotal(self.cost + other.cost, self.components + other.components)

    def find_floor(self, score: Score) -> float:
        """Return the floor: what the score adds to the cost of every component."""
        if score is Score.SIGNED_DIFFERENCE or not self.components:
            return 0.0
        share = DIVERGENCE_FLOOR * 0.5 if score is Score.BENEFIT_DAMAGE else COST_FLOOR
        return share * self.cost / self.components


def sum_costs(general: Relevance | GeneralCost) -> CostTotal:
    """Return the sum of all components' costs, from which a floor follows; one pass over them."""
    values = general.fisher if isinstance(general, GeneralCost) else general.mean_absolute
    total = sum(float(tensor.sum(dtype=torch.float64)) for tensor in values.values())
    return CostTotal(total, sum(tensor.numel() for tensor in values.values()))


def compute_floor(general: Relevance | GeneralCost, score: Score) -> float:
    """Return what the score adds to the cost of every component; one pass over all of them."""
    if score is Score.SIGNED_DIFFERENCE:
        return 0.0
    return sum_costs(general).find_floor(score)


def _compute_cost(general: Relevance | GeneralCost, module: str) -> torch.Tensor:
    """Return the cost of removing each of a module's components, float64, without the floor."""
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
        if floor == 0:  # all costs are 0, so the benefit alone decides
            return useful
        costs = cost(module).add_(floor)
        return useful.div_(costs if cost_weight == 1 else costs.pow_(cost_weight))

    return {module: score(module) for module in benefit}
