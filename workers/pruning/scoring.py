"""Scores that turn relevance on two sets into "prune this first", larger is pruned earlier."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import torch

from workers.domain import Relevance


class Score(StrEnum):
    """How general and undesired relevance are contrasted."""

    BENEFIT_COST = "benefit_cost"
    """max(R̄_undesired, 0) / (E|R_general| + 0.1 · its mean over all components).

    Where no component has any general relevance, max(R̄_undesired, 0).
    """
    BENEFIT_SQUARED_COST = "benefit_squared_cost"
    """max(R̄_undesired, 0) / ((E|R_general|)² + 0.1 · its mean over all components).

    The divergence a small change causes grows with the square of the change, so this spends a
    KL budget on many cheap components rather than on a few dear ones.
    """
    SIGNED_DIFFERENCE = "signed_difference"
    """R̄_undesired − R̄_general: the paper's Eq. 7 as printed."""


COST_FLOOR = 0.1
"""Share of the mean cost added to every cost, so that a silent component is no free lunch."""


def compute_scores(
    general: Relevance, undesired: Relevance, score: Score
) -> dict[str, torch.Tensor]:
    """Return module → score `(feature,)` for relevance of the same components on two sets.

    The scores are float64: a quotient of two float32 numbers is always finite there.
    Raises `ValueError` when the two cover different modules.
    """
    if general.mean.keys() != undesired.mean.keys():
        raise ValueError("general and undesired relevance cover different modules")
    if score is Score.SIGNED_DIFFERENCE:
        given, taken = _to_float64(undesired.mean), _to_float64(general.mean)
        return {name: given[name] - taken[name] for name in taken}
    cost = _to_float64(general.mean_absolute)
    if score is Score.BENEFIT_SQUARED_COST:
        cost = {name: values.square() for name, values in cost.items()}
    return _benefit_over_cost(_to_float64(undesired.mean), cost)


def _to_float64(values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.double() for name, tensor in values.items()}


def _benefit_over_cost(
    benefit: Mapping[str, torch.Tensor], cost: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    floor = COST_FLOOR * torch.cat([values.flatten() for values in cost.values()]).mean()
    if floor == 0:  # nothing general flows anywhere, every cost is 0: the benefit alone decides
        return {name: values.clamp(min=0) for name, values in benefit.items()}
    return {name: values.clamp(min=0) / (cost[name] + floor) for name, values in benefit.items()}
