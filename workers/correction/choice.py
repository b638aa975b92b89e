"""Choosing the best trial of a search, and the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence

from workers.correction.results import Trial


def choose_trial(trials: Sequence[Trial]) -> int | None:
    """Return the index of the best trial within budget; None if there is none.

    The best trial has the largest mean gain over the behaviours and, among equals, uses least of
    its scarcest limit, and then has the fewest components. A trial that does not improve every
    behaviour is never chosen.
    """
    candidates = [
        index
        for index, trial in enumerate(trials)
        if trial.within_budget and all(gain > 0 for gain in trial.gains)
    ]
    if not candidates:
        return None

    def rank(index: int) -> tuple[float, float, int]:
        trial = trials[index]
        return trial.gain, -trial.use, -trial.amount

    return max(candidates, key=rank)


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
