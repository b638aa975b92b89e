"""The search for what and how much to prune, in rounds on the tuning split, within a budget.

Relevance explains the responses it was given. Prune by it, and the model leaves those for others
that are undesired as well: taken out of its loops, SmolLM2 falls into a loop of empty lines. So
every round prunes, looks at what the model does now, explains what is still undesired, and ranks
anew by everything explained so far; a component that holds back the next loop loses its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from workers.correction.results import Responses, StoredSelection, Trial, TrialSettings
from workers.domain import Granularity, Selection, TokenSequence
from workers.pruning.ranking import Ranking
from workers.validation.text_damage import TextDamage

DEFAULT_AMOUNTS: Mapping[Granularity, tuple[int, ...]] = {
    Granularity.NEURON: (32, 64, 96, 128, 192, 256),
    Granularity.HEAD: (1, 2, 4, 8),
    Granularity.WEIGHT: (2_000, 4_000, 8_000, 12_000, 16_000, 24_000),
}
"""Numbers of components tried when a job names none."""

DEFAULT_ROUNDS = 6
"""Selections tried when a job does not say how many."""

BUDGET_SHARE = 0.8
"""Share of each budget the search may use, as tuning text never tells all of held-out text."""

DAMAGE_EXPONENT = 2.0
"""Power of the number of components that damage is taken to grow with from round to round; on
SmolLM2's weights KL grew with the 1.7th, perplexity with less."""

Benefit = Mapping[str, torch.Tensor]
"""Module → what the removal of each component brings against one behaviour."""


PERPLEXITY, DIVERGENCE = "perplexity", "kl"
"""What the budget calls its limits on text as a whole; the others are named for their slice."""


@dataclass(frozen=True)
class Budget:
    """What a correction may cost."""

    perplexity_increase: float
    """Relative increase; 0.015 is 1.5 %."""
    kl_mean: float
    """Mean KL(base ‖ corrected) on reference text, nats a token."""
    slices: Mapping[str, float] = field(default_factory=dict)
    """Protected slice → rise of its loss, nats a token."""

    def scaled(self, share: float) -> Budget:
        """Return the same budget times `share`."""
        return Budget(
            self.perplexity_increase * share,
            self.kl_mean * share,
            {name: limit * share for name, limit in self.slices.items()},
        )

    def compute_uses(
        self, base_perplexity: float, damage: TextDamage, slices: Mapping[str, float]
    ) -> dict[str, float]:
        """Return which share of each limit is used up, by the limit's name.

        `slices` holds the rise of each protected slice's loss; one that was not measured uses
        nothing.
        """
        increase = damage.compute_increase(base_perplexity)
        rises = {name: slices.get(name, 0.0) for name in self.slices}
        return {
            PERPLEXITY: _divide(increase, self.perplexity_increase),
            DIVERGENCE: _divide(damage.kl_mean, self.kl_mean),
            **{name: _divide(rise, self.slices[name]) for name, rise in rises.items()},
        }


@dataclass(frozen=True)
class Measurement:
    """What pruning some components did on the tuning split, a behaviour at a time."""

    responses: tuple[Responses, ...]
    gains: tuple[float, ...]
    """By which share of the base model's the undesiredness fell."""
    damage: TextDamage
    base_perplexity: float
    slices: Mapping[str, float]
    """Protected slice → rise of its loss on tuning items, nats a token."""
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
    amounts: Sequence[int],
    rounds: int,
    steps: SearchSteps,
    budget: Budget,
) -> list[Trial]:
    """Return a trial for every round; `benefits` become those of all rounds together, in place.

    `benefits` holds what the base model's own undesired responses need; each round's new ones
    count as `steps.explain` weighs them. The first round takes the middle of `amounts`,
    ascending; each next one the largest of which the last round's damage foretells that it stays
    within the budget. It ends early when nothing undesired is left to explain.
    """
    trials: list[Trial] = []
    weights = [1.0] * len(benefits)
    amount = amounts[len(amounts) // 2]
    while len(trials) < rounds:
        settings = TrialSettings(
            origin=f"round {len(trials) + 1}", granularity=granularity, amount=amount
        )
        tried = try_settings(benefits, settings, steps, budget)
        if tried is None:
            break
        trial, measured = tried
        trials.append(trial)
        if not any(measured.undesired):
            break
        if len(trials) < rounds:
            for number, undesired in enumerate(measured.undesired):
                if undesired:
                    new, weight = steps.explain(granularity, number, undesired)
                    weights[number] += weight
                    _add_to_average(benefits[number], new, weight / weights[number])
        use = budget.compute_use(measured.base_perplexity, measured.damage)
        amount = choose_amount(amounts, amount, use)
    return trials


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


def _divide(damage: float, limit: float) -> float:
    """Return the share of a limit that damage takes; none does where nothing was damaged."""
    if damage <= 0:
        return 0.0
    return damage / limit if limit > 0 else math.inf


def _dominates(one: Trial, other: Trial) -> bool:
    is_no_worse = one.gain >= other.gain and one.kl_mean <= other.kl_mean
    return is_no_worse and (one.gain > other.gain or one.kl_mean < other.kl_mean)


def _add_to_average(average: Benefit, values: Benefit, share: float) -> None:
    """Make `values` a share of the weighted mean, in place."""
    for name, mean in average.items():
        mean.lerp_(values[name], share)
