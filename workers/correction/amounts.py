"""The number of components that each round of a search prunes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from excise.names import Granularity
from workers.correction.budget import Budget
from workers.correction.results import Trial, divide_by_limit

DAMAGE_EXPONENT = 2.0
"""Damage is assumed to grow with this power of the number of components. Measured on SmolLM2's
weights: KL 0.0054 at 8,000 and 0.0177 at 16,000 (benchmarks/RESULTS.md), a power of 1.7;
perplexity grew with a smaller one."""

TARGET_USE = 0.9
"""The next amount aims at this share of the search's budget. Chosen by hand; not measured."""

GROWTH = 2.0
"""Largest factor by which an open search's amount grows or shrinks from one round to the next.
Chosen by hand; not measured."""

PATIENCE = 2
"""An open search ends after this many rounds within budget without a rise; chosen by hand. Rounds
over budget do not count: when they did, a run of the demo's job ended after its fifth round, the
second without a rise but the first of them within budget (benchmarks/RESULTS.md)."""

LEAST_RISE = 0.01
"""Smallest rise that counts as one, of the mean gain or of `Trial.least_attained`; both are shares.
Chosen by hand; not measured."""

FAILED_TRIES = 2
"""After this many trials over budget, each with more components than any trial within it, the
search tries an amount in between. After a single one it only raises the prices of slices. In the
demo's job without a limit on lines, four of eight rounds tried an amount at which four slices in
turn exceeded their limits, and none tried an amount between that and half of it
(benchmarks/RESULTS.md)."""

NEARLY = 0.95
"""A refused amount no longer counts once at least this share of it is within budget. On
Gemma-3-270M 15,041 weights were refused twice before slices had their prices, and the search never
went beyond them although 14,984 used half of each limit (benchmarks/RESULTS.md)."""

START_SHARES = {Granularity.NEURON: 2e-3, Granularity.HEAD: 4e-3, Granularity.WEIGHT: 1.5e-4}
"""Share of all components that the first round of an open search prunes: 92 neurons, 1 head or
16,000 weights of SmolLM2, about what most searches in benchmarks/RESULTS.md tried."""

MOST_SHARES = {Granularity.NEURON: 1.5e-2, Granularity.HEAD: 5e-2, Granularity.WEIGHT: 3.2e-4}
"""Largest share of all components that an open search prunes. The searches of the examples and
benchmarks reached their budgets at smaller shares; the size of the pool is a multiple of this, and
time and memory grow with it."""

AMOUNT_SPAN = 64
"""Ratio of an open search's largest amount to the smallest that a refinement tries. Chosen by hand;
not measured."""


class Amounts(Protocol):
    """Chooses how many components the rounds of a search prune."""

    @property
    def first(self) -> int:
        """The amount of the first round."""

    def choose_next(self, trials: Sequence[Trial], use: float) -> int:
        """Return the next amount if the last trial's amount uses the share `use` of the budget."""

    def choose_between(self, few: int | None, many: int | None) -> int | None:
        """Return an amount between two, of which one may be unknown; None if there is none."""

    def is_flat(self, trials: Sequence[Trial]) -> bool:
        """Return whether further rounds would gain nothing."""


@dataclass(frozen=True)
class ListedAmounts:
    """The amounts that a job lists, ascending."""

    listed: Sequence[int]

    @property
    def first(self) -> int:
        """Return the middle amount."""
        return self.listed[len(self.listed) // 2]

    def choose_next(self, trials: Sequence[Trial], use: float) -> int:
        """Return the largest listed amount predicted to stay within budget (`choose_amount`)."""
        return choose_amount(self.listed, trials[-1].amount, use)

    def choose_between(self, few: int | None, many: int | None) -> int | None:
        """Return the middle of the listed amounts between; the nearest if only one is known."""
        above = [amount for amount in self.listed if few is None or amount > few]
        between = [amount for amount in above if many is None or amount < many]
        if not between:
            return None
        if few is None:
            return between[-1]
        return between[0] if many is None else between[len(between) // 2]

    def is_flat(self, trials: Sequence[Trial]) -> bool:  # noqa: ARG002 - part of the protocol
        """Return False: a job that lists its amounts gets all of its rounds."""
        return False


@dataclass(frozen=True)
class OpenAmounts:
    """Amounts chosen by the search: as many as the budget allows, until the gain stops rising."""

    first: int
    most: int
    """Largest amount."""

    def choose_next(self, trials: Sequence[Trial], use: float) -> int:
        """Return the amount predicted to use `TARGET_USE`, at most `GROWTH` times the last one.

        If `find_middle` gives an amount, it is the limit after a trial within the budget, and the
        result after a trial over budget.
        """
        wanted = GROWTH if use <= 0 else (TARGET_USE / use) ** (1 / DAMAGE_EXPONENT)
        factor = min(max(wanted, 1 / GROWTH), GROWTH)
        grown = max(1, round(trials[-1].amount * factor))
        between = find_middle(trials)
        if between is None:
            return min(grown, self.most)
        return min(grown, between) if trials[-1].within_budget else between

    def choose_between(self, few: int | None, many: int | None) -> int | None:
        """Return their geometric mean, or the only one known divided or multiplied by `GROWTH`.

        None if that is hardly another amount than either (`NEARLY`).
        """
        if few is None:
            return None if many is None else int(many / GROWTH) or None
        if many is None:
            more = min(round(few * GROWTH), self.most)
            return more if few < NEARLY * more else None
        middle = round(math.sqrt(few * many))
        return middle if few < NEARLY * middle and middle < NEARLY * many else None

    def is_flat(self, trials: Sequence[Trial]) -> bool:
        """Return whether the last `PATIENCE` rounds within budget hardly raised the best gain.

        It is not flat as long as nothing was gained and the budget allows more: a score that is
        either 0 or 1 may not fall at all before enough components are pruned.
        """
        last, within = trials[-1], [trial for trial in trials if trial.within_budget]
        if len(within) <= PATIENCE:
            return False
        best, earlier = _find_best(within), _find_best(within[:-PATIENCE])
        if best.gain <= 0 and self.choose_next(trials, last.use) > last.amount:
            return False
        rise = max(best.gain - earlier.gain, best.attained - earlier.attained)
        return rise < LEAST_RISE


def find_middle(trials: Sequence[Trial]) -> int | None:
    """Return the geometric mean of the largest amount within budget and the smallest one over it.

    Amounts over budget count only if they are above the largest one within it. Those tried before
    it count only if they are clearly larger (`NEARLY`), because about the same amount was allowed
    later. The loss of slices is hard to predict: even after their prices rose, they or others may
    exceed their limits again. Returns None before `FAILED_TRIES` such trials, and if no trial was
    within budget.
    """
    allowed = [place for place, trial in enumerate(trials) if trial.within_budget]
    if not allowed:
        return None
    best = max(allowed, key=lambda place: (trials[place].amount, place))
    within = trials[best].amount
    earlier, later = trials[:best], trials[best:]
    refused = [trial.amount for trial in earlier if within < NEARLY * trial.amount]
    refused += [trial.amount for trial in later if within < trial.amount]
    if len(refused) < FAILED_TRIES:
        return None
    return round(math.sqrt(within * min(refused)))


@dataclass(frozen=True)
class _Best:
    """The best of several trials within budget, by each figure that a search maximises."""

    gain: float
    attained: float
    """The largest `Trial.least_attained`."""


def _find_best(within: Sequence[Trial]) -> _Best:
    return _Best(
        gain=max((trial.gain for trial in within), default=0.0),
        attained=max((trial.least_attained for trial in within), default=0.0),
    )


def build_amounts(
    listed: Sequence[int] | None, granularity: Granularity, components: int
) -> Amounts:
    """Return the amounts that a job lists or, if it lists none, amounts chosen by the search.

    `components` is the number of components of the granularity in the model.
    """
    if listed is not None:
        return ListedAmounts(listed)
    _, most = _span_open(granularity, components)
    start = max(1, round(START_SHARES[granularity] * components))
    return OpenAmounts(min(start, most), most)


def find_range(
    listed: Sequence[int] | None, granularity: Granularity, components: int, *, refines: bool
) -> tuple[int, int]:
    """Return the smallest and the largest number of components that any trial prunes.

    A refinement may go down to half the smallest listed amount and up to twice the largest.
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
    """Return the largest of `amounts` predicted to stay within the budget, or else the smallest.

    `last` components used the share `use` of the budget, and damage is assumed to grow with the
    power `DAMAGE_EXPONENT`. So after a round over budget the amount is smaller, if a smaller one is
    listed.
    """
    fitting = [amount for amount in amounts if use * (amount / last) ** DAMAGE_EXPONENT <= 1]
    return max(fitting, default=min(amounts))


def predict_use(trials: Sequence[Trial], budget: Budget) -> float:
    """Return the share of the budget that the last trial's amount would use in the next round.

    Within budget, this is what the last trial used of the limits on text and slices. If a slice or
    a gate on answers is over its limit but was within it in the trial before, the next round will
    keep away from the components that harm it, and the amount may stay. If it was over its limit
    then as well, that did not help, and the amount must fall.
    """
    last = trials[-1]
    text = compute_text_uses(last, budget)
    slices = budget.compute_slice_uses(last.slices)
    if last.use <= 1:
        return max([*text, *slices.values()])
    over = _find_over(last, budget)
    before = _find_over(trials[-2], budget) if len(trials) > 1 else {}
    stubborn = [over[name] for name in over.keys() & before.keys()]
    return max([*text, TARGET_USE, *stubborn])


def _find_over(trial: Trial, budget: Budget) -> dict[str, float]:
    """Return slice or gate on answers → used share of its limit, for those over their limits."""
    uses = {**budget.compute_slice_uses(trial.slices), **trial.answers}
    return {name: use for name, use in uses.items() if use > 1}


def compute_text_uses(trial: Trial, budget: Budget) -> tuple[float, float]:
    """Return the used shares of the limits on KL divergence and on perplexity."""
    return (
        divide_by_limit(trial.kl_mean, budget.kl_mean),
        divide_by_limit(trial.perplexity_increase, budget.perplexity_increase),
    )
