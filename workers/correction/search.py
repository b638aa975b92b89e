"""The search for what and how much to prune, in rounds on the tuning split, within a budget.

Relevance explains the responses it was given. Prune by it, and the model leaves those for others
that are undesired as well: taken out of its loops, SmolLM2 falls into a loop of empty lines. So
every round prunes, looks at what the model does now, explains what is still undesired, and ranks
anew by everything explained so far; a component that holds back the next loop loses its place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from workers.correction.results import Response, SearchOutcome, StoredSelection, Trial
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

ROOM_SHARE = 0.6
"""While a selection uses no more than this share of that, the next round takes a larger one."""


@dataclass(frozen=True)
class Budget:
    """What a correction may cost."""

    perplexity_increase: float
    """Relative increase; 0.015 is 1.5 %."""
    kl_mean: float
    """Mean KL(base ‖ corrected) on reference text, nats a token."""

    def scaled(self, share: float) -> Budget:
        """Return the same budget times `share`."""
        return Budget(self.perplexity_increase * share, self.kl_mean * share)

    def allows(self, base_perplexity: float, damage: TextDamage) -> bool:
        """Whether `damage` stays within both limits."""
        increase = damage.perplexity / base_perplexity - 1
        return increase <= self.perplexity_increase and damage.kl_mean <= self.kl_mean


@dataclass(frozen=True)
class Measurement:
    """What pruning some components did on the tuning split."""

    responses: tuple[Response, ...]
    damage: TextDamage
    base_perplexity: float
    undesired: tuple[TokenSequence, ...]
    """The responses that still show the behaviour, to be explained in the next round."""


@dataclass(frozen=True)
class SearchSteps:
    """The parts of a search that run the model."""

    rank: Callable[[Mapping[str, torch.Tensor]], Ranking]
    """Ranks all components by what each brings: module → mean relevance for the behaviour."""
    measure: Callable[[Selection], Measurement]
    explain: Callable[[Sequence[TokenSequence]], Mapping[str, torch.Tensor]]
    """Mean relevance of every component of the base model for undesired responses."""
    tell: Callable[[Trial], None]


def search_rounds(
    benefit: Mapping[str, torch.Tensor],
    amounts: Sequence[int],
    rounds: int,
    base_metrics: Sequence[float],
    steps: SearchSteps,
    budget: Budget,
) -> SearchOutcome:
    """Return a trial for every round, and the best of them within `budget`.

    `benefit` is mean relevance for the base model's own undesired responses; each round's new
    ones count as much. The first round takes the middle of `amounts`, ascending; the next a
    smaller one after a round over budget, a larger one while there is ample room. It ends early
    when nothing undesired is left to explain.

    Best is the largest mean metric (higher is better), of equals the fewest components. None
    is chosen unless it improves on `base_metrics`.
    """
    trials: list[Trial] = []
    average = {name: values.clone() for name, values in benefit.items()}
    position = len(amounts) // 2
    while len(trials) < rounds:
        ranking = steps.rank(average)
        selection = ranking.top(min(amounts[position], len(ranking)))
        if len(selection) == 0:
            break
        measured = steps.measure(selection)
        trials.append(_record(selection, measured, budget))
        steps.tell(trials[-1])
        if not measured.undesired:
            break
        if len(trials) < rounds:
            _add_to_average(average, steps.explain(measured.undesired), len(trials) + 1)
        position = _move(position, len(amounts), measured, budget)
    return SearchOutcome(trials=tuple(trials), chosen=_choose(trials, fmean(base_metrics)))


def _add_to_average(
    average: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor], count: int
) -> None:
    """Make `values` the last of `count` that are averaged, in place."""
    for name, mean in average.items():
        mean.lerp_(values[name], 1 / count)


def _record(selection: Selection, measured: Measurement, budget: Budget) -> Trial:
    return Trial(
        selection=StoredSelection.from_selection(selection),
        responses=measured.responses,
        perplexity=measured.damage.perplexity,
        base_perplexity=measured.base_perplexity,
        kl_mean=measured.damage.kl_mean,
        within_budget=budget.allows(measured.base_perplexity, measured.damage),
    )


def _move(position: int, amounts: int, measured: Measurement, budget: Budget) -> int:
    """Return which amount the next round takes."""
    if not budget.allows(measured.base_perplexity, measured.damage):
        return max(position - 1, 0)
    if budget.scaled(ROOM_SHARE).allows(measured.base_perplexity, measured.damage):
        return min(position + 1, amounts - 1)
    return position


def _choose(trials: Sequence[Trial], base_mean: float) -> int | None:
    candidates = [
        index
        for index, trial in enumerate(trials)
        if trial.within_budget and trial.mean_metric > base_mean
    ]
    if not candidates:
        return None
    return max(candidates, key=lambda index: (trials[index].mean_metric, -trials[index].amount))
