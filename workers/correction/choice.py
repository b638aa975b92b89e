"""Choosing the best trial of a search, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

from workers.correction.results import Trial


def choose_trial(trials: Sequence[Trial]) -> int | None:
    """Return the index of the best trial within budget; None if there is none.

    The best trial is nearest to the effect that is wanted of each behaviour, judged by the one that
    is furthest from it. Among those that attain it for all, it has the largest mean gain and, among
    equals, uses least of its scarcest limit, and then has the fewest components. A trial that does
    not improve every behaviour is never chosen. Where answers alone keep all of these out of the
    budget, the one that uses least is chosen, so that the verdict can say on held-out prompts what
    is wrong.
    """
    improving = [
        index for index, trial in enumerate(trials) if all(gain > 0 for gain in trial.gains)
    ]
    within = [index for index in improving if trials[index].within_budget]
    if within:
        return max(within, key=lambda index: _rank(trials[index]))
    kept = [index for index in improving if trials[index].is_text_kept]
    return max(kept, key=lambda index: _spare(trials[index]), default=None)


def _rank(trial: Trial) -> tuple[float, float, float, int]:
    return trial.least_attained, trial.gain, *_spare(trial)


def _spare(trial: Trial) -> tuple[float, int]:
    return -trial.use, -trial.amount


def find_front(trials: Sequence[Trial]) -> tuple[int, ...]:
    """Return the indices of the trials that no other trial beats in both gain and KL divergence."""
    return tuple(
        index
        for index, trial in enumerate(trials)
        if not any(_dominates(other, trial) for other in trials)
    )


def _dominates(one: Trial, other: Trial) -> bool:
    is_no_worse = one.gain >= other.gain and one.kl_mean <= other.kl_mean
    return is_no_worse and (one.gain > other.gain or one.kl_mean < other.kl_mean)
