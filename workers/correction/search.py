"""The search for what and how much to prune, in rounds on the tuning split, within a budget.

Relevance explains the responses it was given. Prune by it, and the model leaves those for others
that are undesired as well: taken out of its loops, SmolLM2 falls into a loop of empty lines. So
every round prunes, looks at what the model does now, explains what is still undesired, and ranks
anew by everything explained so far; a component that holds back the next loop loses its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from excise.names import BudgetLimit, Granularity
from workers.correction.results import (
    Responses,
    SliceDamage,
    StoredSelection,
    Trial,
    TrialSettings,
    divide_by_limit,
)
from workers.domain import Selection, TokenSequence
from workers.measuring.text_damage import TextDamage
from workers.pruning.ranking import Ranking

DEFAULT_ROUNDS = 6
"""Selections tried when a job does not say how many."""

BUDGET_SHARE = 0.8
"""Share of each budget the search may use, as tuning text never tells all of held-out text."""

DAMAGE_EXPONENT = 2.0
"""Power of the number of components that damage is taken to grow with from round to round; on
SmolLM2's weights KL grew with the 1.7th, perplexity with less."""

TARGET_USE = 0.9
"""Share of the search's budget that the next amount is aimed at."""

GROWTH = 2.0
"""Most that an amount grows, or shrinks, from one round to the next."""

PATIENCE = 2
"""Rounds without a rise after which an open search ends."""

LEAST_RISE = 0.01
"""Rise of the mean gain, a share in [0, 1], that is worth another round."""

CHEAPER, DEARER = 0.5, 4.0
"""How fast a slice's price falls and rises from one round to the next."""

LEAST_DEAR, MOST_DEAR = 0.1, 64.0
"""Below the first a price is nothing; above the second it would decide alone."""

Benefit = Mapping[str, torch.Tensor]
"""Module → what the removal of each component brings against one behaviour."""


"""What the budget calls its limits on text as a whole; the others are named for their slice."""


@dataclass(frozen=True)
class Budget:
    """What a correction may cost."""

    perplexity_increase: float
    """Relative increase; 0.015 is 1.5 %."""
    kl_mean: float
    """Mean KL(base ‖ corrected) on reference text, nats a token."""
    slices: Mapping[str, SliceDamage] = field(default_factory=dict)
    """Protected slice → what it may lose."""

    def scaled(self, share: float) -> Budget:
        """Return the same budget times `share`."""
        return Budget(
            self.perplexity_increase * share,
            self.kl_mean * share,
            {name: limit.scaled(share) for name, limit in self.slices.items()},
        )

    def compute_uses(
        self, base_perplexity: float, damage: TextDamage, slices: Mapping[str, SliceDamage]
    ) -> dict[str, float]:
        """Return which share of each limit is used up, by the limit's name."""
        increase = damage.compute_increase(base_perplexity)
        return {
            BudgetLimit.PERPLEXITY: divide_by_limit(increase, self.perplexity_increase),
            BudgetLimit.DIVERGENCE: divide_by_limit(damage.kl_mean, self.kl_mean),
            **{name: slices[name].compute_share(limit) for name, limit in self.slices.items()},
        }


@dataclass(frozen=True)
class Measurement:
    """What pruning some components did on the tuning split, a behaviour at a time."""

    responses: tuple[Responses, ...]
    gains: tuple[float, ...]
    """By which share of the base model's the undesiredness fell."""
    damage: TextDamage
    base_perplexity: float
    slices: Mapping[str, SliceDamage]
    """Protected slice → what it lost on tuning items."""
    undesired: tuple[tuple[TokenSequence, ...], ...]
    """The responses that still show each behaviour, to be explained in the next round."""


@dataclass(frozen=True)
class SearchSteps:
    """The parts of a search that run the model."""

    rank: Callable[[Sequence[Benefit], TrialSettings], Ranking]
    """Ranks the components that the settings allow by what each brings to every behaviour."""
    measure: Callable[[Selection, TrialSettings], Measurement]
    explain: Callable[[Granularity, int, Sequence[TokenSequence]], tuple[Benefit, float]]
    """What undesired responses of a behaviour (by number) need, and how much that weighs beside
    what the base model's own need, which weighs 1."""
    tell: Callable[[Trial], None]


def try_settings(
    benefits: Sequence[Benefit],
    settings: TrialSettings,
    steps: SearchSteps,
    budget: Budget,
) -> tuple[Trial, Measurement] | None:
    """Return one trial, or None where the settings leave nothing to prune."""
    ranking = steps.rank(benefits, settings)
    selection = ranking.top(min(settings.amount, len(ranking)))
    if len(selection) == 0:
        return None
    measured = steps.measure(selection, settings)
    uses = budget.compute_uses(measured.base_perplexity, measured.damage, measured.slices)
    scarcest = max(uses, key=uses.__getitem__)
    trial = Trial(
        settings=settings,
        selection=StoredSelection.from_selection(selection),
        responses=measured.responses,
        gains=measured.gains,
        perplexity=measured.damage.perplexity,
        base_perplexity=measured.base_perplexity,
        kl_mean=measured.damage.kl_mean,
        slices=dict(measured.slices),
        bound_by=scarcest,
        use=uses[scarcest],
        within_budget=uses[scarcest] <= 1,
    )
    steps.tell(trial)
    return trial, measured


def search_rounds(
    benefits: Sequence[Benefit],
    granularity: Granularity,
    amounts: Amounts,
    rounds: int,
    steps: SearchSteps,
    budget: Budget,
) -> list[Trial]:
    """Return a trial for every round; `benefits` become those of all rounds together, in place.

    `benefits` holds what the base model's own undesired responses need; each round's new ones
    count as `steps.explain` weighs them. Each round's amount follows from what the last one used
    of the budget (`Amounts`), and the damage to a slice that lost more than its share costs
    more from then on. It ends early when nothing undesired is left to explain, or when
    `amounts` finds that more rounds bring nothing, unless a larger gain may yet be had within
    budget (`_may_still_rise`).
    """
    trials: list[Trial] = []
    weights = [1.0] * len(benefits)
    amount, prices = amounts.first, dict[str, float]()
    while len(trials) < rounds:
        settings = TrialSettings(
            origin=f"round {len(trials) + 1}",
            granularity=granularity,
            amount=amount,
            prices=prices,
        )
        tried = try_settings(benefits, settings, steps, budget)
        if tried is None:
            break
        trial, measured = tried
        trials.append(trial)
        if not any(measured.undesired):
            break
        if amounts.is_flat(trials) and not _may_still_rise(trials, budget):
            break
        if len(trials) < rounds:
            for number, undesired in enumerate(measured.undesired):
                if undesired:
                    new, weight = steps.explain(granularity, number, undesired)
                    weights[number] += weight
                    _add_to_average(benefits[number], new, weight / weights[number])
        prices = raise_prices(prices, budget, measured.slices)
        amount = amounts.choose_next(amount, foretell_use(trials, budget))
    return trials


def foretell_use(trials: Sequence[Trial], budget: Budget) -> float:
    """Return which share of the budget as many components would use in the next round.

    What the last trial used of it; but a slice that is beyond its limit and was not in the trial
    before is left to its price, which keeps the next round from the components that harm it, and
    the amount stays. Only where that did not help the amount must fall.
    """
    last = trials[-1]
    if last.use <= 1:
        return last.use
    text = max(
        divide_by_limit(last.perplexity_increase, budget.perplexity_increase),
        divide_by_limit(last.kl_mean, budget.kl_mean),
    )
    over = _find_slices_over(last, budget)
    before = _find_slices_over(trials[-2], budget) if len(trials) > 1 else {}
    return max([text, TARGET_USE, *(over[name] for name in over.keys() & before.keys())])


def _find_slices_over(trial: Trial, budget: Budget) -> dict[str, float]:
    """Return the slices that lost more than their limit, each with its use of it."""
    uses = {name: trial.slices[name].compute_share(limit) for name, limit in budget.slices.items()}
    return {name: use for name, use in uses.items() if use > 1}


def _may_still_rise(trials: Sequence[Trial], budget: Budget) -> bool:
    """Whether the last trial gains more than any within budget, and only slices are in its way.

    Their prices rise from round to round, so a later trial may keep that gain within the budget.
    """
    last = trials[-1]
    over = _find_slices_over(last, budget)
    uses = [
        divide_by_limit(last.perplexity_increase, budget.perplexity_increase),
        divide_by_limit(last.kl_mean, budget.kl_mean),
    ]
    return bool(over) and max(uses) <= 1 and last.gain - _find_best_gain(trials) >= LEAST_RISE


def raise_prices(
    prices: Mapping[str, float], budget: Budget, slices: Mapping[str, SliceDamage]
) -> dict[str, float]:
    """Return the least price of each slice's damage in the next round.

    A slice that lost more than its limit becomes dearer by as much, `DEARER` times at most; one
    that lost less becomes cheaper, by half at most: the multipliers of dual ascent (Boyd et al.
    2011, section 2.1), multiplicative. What is foretold of a slice is of first order and from
    few items; what a trial measured corrects it.
    """
    found = {}
    for name, limit in budget.slices.items():
        use, price = slices[name].compute_share(limit), prices.get(name, 0.0)
        if use > 1:
            found[name] = min(max(price, 1.0) * min(use, DEARER), MOST_DEAR)
        elif (eased := price * max(use, CHEAPER)) > LEAST_DEAR:
            found[name] = eased
    return found


class Amounts(Protocol):
    """How many components the rounds of a search prune."""

    @property
    def first(self) -> int:
        """The amount of the first round."""

    def choose_next(self, last: int, use: float) -> int:
        """Return the next amount after `last` components used the share `use` of the budget."""

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

    def choose_next(self, last: int, use: float) -> int:
        """Return the largest one foretold to stay within the budget; see `choose_amount`."""
        return choose_amount(self.listed, last, use)

    def is_flat(self, trials: Sequence[Trial]) -> bool:  # noqa: ARG002 - part of the protocol
        """Never: a job that names its amounts gets its rounds."""
        return False


@dataclass(frozen=True)
class OpenAmounts:
    """Amounts found on the way: as many as the budget bears, until the effect is flat."""

    first: int
    most: int
    """Components that there are to choose from."""

    def choose_next(self, last: int, use: float) -> int:
        """Return the amount foretold to use `TARGET_USE`, at most `GROWTH` times the last one."""
        wanted = GROWTH if use <= 0 else (TARGET_USE / use) ** (1 / DAMAGE_EXPONENT)
        factor = min(max(wanted, 1 / GROWTH), GROWTH)
        return min(max(1, round(last * factor)), self.most)

    def is_flat(self, trials: Sequence[Trial]) -> bool:
        """Whether the last `PATIENCE` rounds raised the best gain within budget by too little."""
        if len(trials) <= PATIENCE:
            return False
        return _find_best_gain(trials) - _find_best_gain(trials[:-PATIENCE]) < LEAST_RISE


def _find_best_gain(trials: Sequence[Trial]) -> float:
    return max((trial.gain for trial in trials if trial.within_budget), default=0.0)


def choose_amount(amounts: Sequence[int], last: int, use: float) -> int:
    """Return the largest of `amounts` foretold to stay within a budget.

    `last` components used the share `use` of it. After a round over budget it is a smaller
    amount, if there is one; the smallest where none is foretold to stay within.
    """
    fitting = [amount for amount in amounts if use * (amount / last) ** DAMAGE_EXPONENT <= 1]
    return max(fitting, default=min(amounts))


def choose_trial(trials: Sequence[Trial]) -> int | None:
    """Return the index of the trial that is best within budget, None without any.

    Best is the largest mean gain over the behaviours, of equals the fewest components. None is
    chosen unless it improves every behaviour.
    """
    candidates = [
        index
        for index, trial in enumerate(trials)
        if trial.within_budget and all(gain > 0 for gain in trial.gains)
    ]
    if not candidates:
        return None
    return max(candidates, key=lambda index: (trials[index].gain, -trials[index].amount))


def find_front(trials: Sequence[Trial]) -> tuple[int, ...]:
    """Return the indices of the trials that no other one beats in gain and in KL divergence."""
    return tuple(
        index
        for index, trial in enumerate(trials)
        if not any(_dominates(other, trial) for other in trials)
    )


def _dominates(one: Trial, other: Trial) -> bool:
    is_no_worse = one.gain >= other.gain and one.kl_mean <= other.kl_mean
    return is_no_worse and (one.gain > other.gain or one.kl_mean < other.kl_mean)


def _add_to_average(average: Benefit, values: Benefit, share: float) -> None:
    """Make `values` a share of the weighted mean, in place."""
    for name, mean in average.items():
        mean.lerp_(values[name], share)
