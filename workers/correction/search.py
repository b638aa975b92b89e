"""The search for how much to prune: every amount measured on the tuning split, best in budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from workers.correction.results import Response, SearchOutcome, StoredSelection, Trial
from workers.domain import Selection
from workers.pruning.ranking import Ranking
from workers.validation.text_damage import TextDamage

DEFAULT_AMOUNTS = (16, 48, 96, 160)
"""Numbers of neurons tried when a job names none; small ones first, for more is not better."""

BUDGET_SHARE = 0.8
"""Share of each budget the search may use, as tuning text never tells all of held-out text."""


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


def search_amounts(
    ranked: Ranking,
    amounts: Iterable[int],
    base_metrics: Sequence[float],
    measure: Callable[[Selection], Measurement],
    budget: Budget,
    on_trial: Callable[[Trial], None] | None = None,
) -> SearchOutcome:
    """Return a trial for every amount of `ranked` components, and the best within `budget`.

    Best is the largest mean metric (higher is better), of equals the fewest components. None
    is chosen unless it improves on `base_metrics`. Amounts beyond the ranking are skipped.
    """
    trials: list[Trial] = []
    for amount in sorted(set(amounts)):
        if amount > len(ranked):
            break
        selection = ranked.top(amount)
        measured = measure(selection)
        trial = Trial(
            selection=StoredSelection.from_selection(selection),
            responses=measured.responses,
            perplexity=measured.damage.perplexity,
            base_perplexity=measured.base_perplexity,
            kl_mean=measured.damage.kl_mean,
            within_budget=budget.allows(measured.base_perplexity, measured.damage),
        )
        trials.append(trial)
        if on_trial is not None:
            on_trial(trial)
    return SearchOutcome(trials=tuple(trials), chosen=_choose(trials, fmean(base_metrics)))


def _choose(trials: Sequence[Trial], base_mean: float) -> int | None:
    candidates = [
        index
        for index, trial in enumerate(trials)
        if trial.within_budget and trial.mean_metric > base_mean
    ]
    if not candidates:
        return None
    return max(candidates, key=lambda index: (trials[index].mean_metric, -index))
