"""The budget of a correction, the share of it for the search, and prices of protected slices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from excise.names import BudgetLimit
from workers.correction.results import SliceDamage, divide_by_limit
from workers.measuring.text_damage import TextDamage

BUDGET_SHARE = 0.8
"""A search may use this share of each limit, because it sees only tuning text and held-out text may
lose more (docs/decisions/0004). The value was chosen by hand; other values were not measured."""

CHEAPER, DEARER = 0.5, 4.0
"""Smallest and largest factor by which a slice's price changes from one round to the next. Chosen
by hand; not measured."""

LEAST_DEAR, MOST_DEAR = 0.1, 64.0
"""Prices below the first count as 0; none rises above the second, where one slice would decide
alone. Chosen by hand; not measured."""


@dataclass(frozen=True)
class Budget:
    """Limits on the damage that a correction may do."""

    perplexity_increase: float
    """Largest relative increase of perplexity; 0.015 is 1.5 %."""
    kl_mean: float
    """Largest mean of KL(base ‖ corrected) on reference text, nats per token."""
    slices: Mapping[str, SliceDamage] = field(default_factory=dict)
    """Protected slice → the largest loss allowed."""

    def scaled(self, share: float) -> Budget:
        """Return the budget with all limits times `share`."""
        return Budget(
            self.perplexity_increase * share,
            self.kl_mean * share,
            {name: limit.scaled(share) for name, limit in self.slices.items()},
        )

    def compute_uses(
        self, base_perplexity: float, damage: TextDamage, slices: Mapping[str, SliceDamage]
    ) -> dict[str, float]:
        """Return name of a limit or slice → used share of its limit."""
        increase = damage.compute_increase(base_perplexity)
        return {
            BudgetLimit.PERPLEXITY: divide_by_limit(increase, self.perplexity_increase),
            BudgetLimit.DIVERGENCE: divide_by_limit(damage.kl_mean, self.kl_mean),
            **self.compute_slice_uses(slices),
        }

    def compute_slice_uses(self, slices: Mapping[str, SliceDamage]) -> dict[str, float]:
        """Return protected slice → used share of its limit."""
        return {name: slices[name].compute_share(limit) for name, limit in self.slices.items()}


def raise_prices(
    prices: Mapping[str, float], budget: Budget, slices: Mapping[str, SliceDamage]
) -> dict[str, float]:
    """Return slice → lower bound of its price in the next round; slices without one are left out.

    If a slice lost more than its limit, its price rises in proportion, at most by the factor
    `DEARER`; if it lost less, its price falls, at most by the factor `CHEAPER`. These are the
    multipliers of dual ascent (Boyd et al. 2011, section 2.1) in multiplicative form. They correct
    the damage predicted for a slice, which is first order and from few items, by the damage that
    a trial measured.
    """
    raised = {}
    for name, use in budget.compute_slice_uses(slices).items():
        price = prices.get(name, 0.0)
        if use > 1:
            raised[name] = min(max(price, 1.0) * min(use, DEARER), MOST_DEAR)
        elif (eased := price * max(use, CHEAPER)) > LEAST_DEAR:
            raised[name] = eased
    return raised
