"""How many components each round of a search prunes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from excise.names import Granularity
from workers.correction.budget import Budget
from workers.correction.results import Trial, divide_by_limit

DAMAGE_EXPONENT = 2.0
"""Damage is taken to grow with this power of the number of components. Measured on SmolLM2's
weights: KL 0.0054 at 8,000 and 0.0177 at 16,000 (benchmarks/RESULTS.md), the power 1.7;
perplexity grew with less."""

TARGET_USE = 0.9
"""Share of the search's budget that the next amount aims at. Chosen by hand; not measured."""

GROWTH = 2.0
"""Largest factor by which an open amount grows or shrinks from one round to the next. Chosen by
hand; not measured."""

PATIENCE = 2
"""Rounds without a rise after which an open search ends. Chosen by hand; not measured."""

LEAST_RISE = 0.01
"""Rise of the mean gain, a share in [0, 1], that is worth another round. Chosen by hand; not
measured."""

FAILED_TRIES = 2
"""Trials beyond the budget, at more components than any within it, after which the search takes a
step between. A single one is left to the prices. In the demo's job without a limit on lines, four
of eight rounds tried an amount that four slices in turn refused, and never one between that and
half of it (benchmarks/RESULTS.md)."""

START_SHARES = {Granularity.NEURON: 2e-3, Granularity.HEAD: 4e-3, Granularity.WEIGHT: 1.5e-4}
"""Share of all components in the first round of an open search: 92 neurons, 1 head and 16,000
weights of SmolLM2, about what most searches in benchmarks/RESULTS.md went through."""

MOST_SHARES = {Granularity.NEURON: 1.5e-2, Granularity.HEAD: 5e-2, Granularity.WEIGHT: 3.2e-4}
"""Largest share of all components that an open search prunes. The searches of the examples and
benchmarks used up their budgets before; the pool of candidates is a multiple of this, and time
and memory grow with it."""

AMOUNT_SPAN = 64
"""Largest amount of an open search over the smallest that a refinement tries. Chosen by hand; not
measured."""


class Amounts(Protocol):
    """How many components the rounds of a search prune."""

    @property
    def first(self) -> int:
        """The amount of the first round."""

    def choose_next(self, trials: Sequence[Trial], use: float) -> int:
        """Return the next amount where the last trial's uses the share `use` of the budget."""

    def is_flat(self, trials: Sequence[Trial]) -> bool:
        """Whether further rounds would bring nothing."""


@dataclass(frozen=True)
class ListedAmounts:
    """The amounts that a job names, ascending."""

    listed: Sequence[int]

    @property
    def first(self) -> int:
        """The middle one."""
        return self.listed[len(self.listed) // 2]

    def choose_next(self, trials: Sequence[Trial], use: float) -> int:
        """Return the largest listed amount predicted to stay within budget (`choose_amount`)."""
        return choose_amount(self.listed, trials[-1].amount, use)

    def is_flat(self, trials: Sequence[Trial]) -> bool:  # noqa: ARG002 - part of the protocol
        """Never: a job that names its amounts gets all of its rounds."""
        return False


@dataclass(frozen=True)
class OpenAmounts:
    """Amounts found on the way: as many as the budget bears, until the effect is flat."""

    first: int
    most: int
    """Largest amount."""

    def choose_next(self, trials: Sequence[Trial], use: float) -> int:
        """Return the amount predicted to use `TARGET_USE`, at most `GROWTH` times the last one.

        Towards amounts that were beyond the budget again and again it goes half of the way, and
        from them back no further.
        """
        wanted = GROWTH if use <= 0 else (TARGET_USE / use) ** (1 / DAMAGE_EXPONENT)
        factor = min(max(wanted, 1 / GROWTH), GROWTH)
        grown = max(1, round(trials[-1].amount * factor))
        between = find_middle(trials)
        if between is None:
            return min(grown, self.most)
        return min(grown, between) if trials[-1].within_budget else between

    def is_flat(self, trials: Sequence[Trial]) -> bool:
        """Whether the last `PATIENCE` rounds raised the best gain within budget by too little.

        Not while nothing was gained and the budget bears more: a score that is either 0 or 1 may
        not fall at all before enough components are gone.
        """
        if len(trials) <= PATIENCE:
            return False
        last, best = trials[-1], _find_best_gain(trials)
        if best <= 0 and self.choose_next(trials, last.use) > last.amount:
            return False
        return best - _find_best_gain(trials[:-PATIENCE]) < LEAST_RISE


def find_middle(trials: Sequence[Trial]) -> int | None:
    """Return the amount halfway, by ratio, from the largest within the budget to one refused.

    What slices lose is seldom foretold: they were beyond their limits at an amount, their prices
    rose, and they, or others, were so again (`FAILED_TRIES`). None where nothing was, or nothing
    yet within.
    """
    within = max((trial.amount for trial in trials if trial.within_budget), default=0)
    beyond = [trial.amount for trial in trials if not trial.within_budget]
    further = [amount for amount in beyond if amount > within]
    if not within or len(further) < FAILED_TRIES:
        return None
    return round(math.sqrt(within * min(further)))


def _find_best_gain(trials: Sequence[Trial]) -> float:
    return max((trial.gain for trial in trials if trial.within_budget), default=0.0)


def build_amounts(
    listed: Sequence[int] | None, granularity: Granularity, components: int
) -> Amounts:
    """Return the amounts that a job lists, or, without any, those that the search finds.

    `components` is how many components of the granularity the model has.
    """
    if listed is not None:
        return ListedAmounts(listed)
    _, most = _span_open(granularity, components)
    start = max(1, round(START_SHARES[granularity] * components))
    return OpenAmounts(min(start, most), most)


def find_range(
    listed: Sequence[int] | None, granularity: Granularity, components: int, *, refines: bool
) -> tuple[int, int]:
    """Return the fewest and the most components that any trial prunes.

    A refinement may go to half of the smallest and twice the largest amount that is listed.
    """
    if listed is None:
        return _span_open(granularity, components)
    if not refines:
        return listed[0], listed[-1]
    return max(1, listed[0] // 2), 2 * listed[-1]


def _span_open(granularity: Granularity, components: int) -> tuple[int, int]:
    most = max(1, round(MOST_SHARES[granularity] * components))
    return max(1, most // AMOUNT_SPAN), most


def choose_amount(amounts: Sequence[int], last: int, use: float) -> int:
    """Return the largest of `amounts` predicted to stay within the budget, else the smallest.

    `last` components used the share `use` of the budget, and damage is taken to grow with the
    power `DAMAGE_EXPONENT`. After a round over budget the amount is therefore smaller, if a
    smaller one is listed.
    """
    fitting = [amount for amount in amounts if use * (amount / last) ** DAMAGE_EXPONENT <= 1]
    return max(fitting, default=min(amounts))


def predict_use(trials: Sequence[Trial], budget: Budget) -> float:
    """Return the share of the budget that the last trial's amount would use in the next round.

    Usually what the last trial used. A slice beyond its limit that was within it in the trial
    before is left to its price, which will keep the next round away from the components that
    harm it: the amount may stay. If the slice was beyond its limit then as well, the price did
    not help, and the amount must fall.
    """
    last = trials[-1]
    if last.use <= 1:
        return last.use
    over = _find_slices_over(last, budget)
    before = _find_slices_over(trials[-2], budget) if len(trials) > 1 else {}
    stubborn = [over[name] for name in over.keys() & before.keys()]
    return max([_compute_text_use(last, budget), TARGET_USE, *stubborn])


def _find_slices_over(trial: Trial, budget: Budget) -> dict[str, float]:
    """Return the slices that lost more than their limit, each with its use of it."""
    uses = budget.compute_slice_uses(trial.slices)
    return {name: use for name, use in uses.items() if use > 1}


def _compute_text_use(trial: Trial, budget: Budget) -> float:
    """Return the larger used-up share of the two limits on text as a whole."""
    return max(
        divide_by_limit(trial.perplexity_increase, budget.perplexity_increase),
        divide_by_limit(trial.kl_mean, budget.kl_mean),
    )


def may_still_rise(trials: Sequence[Trial], budget: Budget) -> bool:
    """Whether the last trial gains more than any within budget, and only slices are in its way.

    Their prices rise from round to round, so a later trial may keep that gain within the budget.
    """
    last = trials[-1]
    if _compute_text_use(last, budget) > 1 or not _find_slices_over(last, budget):
        return False
    return last.gain - _find_best_gain(trials) >= LEAST_RISE
