"""Advice in a report: what held a correction back, and what to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from excise.names import Direction, Granularity
from workers.correction.amounts import DAMAGE_EXPONENT, LEAST_RISE, compute_text_uses
from workers.correction.behaviour import Behaviour
from workers.correction.budget import BUDGET_SHARE, Budget
from workers.correction.preparation import MIN_TRIGGERING
from workers.correction.results import PreparedBehaviour, PreparedCorrection, SearchOutcome, Trial
from workers.correction.search import name_round

WORTHWHILE = 1.25
"""Larger amounts are advised if the search could have pruned this many times its largest amount
within its share of the budget, as predicted in `choose_amount`. Chosen by hand."""

MOST_TIMES = 4.0
"""At most this many times the largest amount is advised, because the prediction of damage is not
reliable beyond. Chosen by hand."""


def list_advice(
    behaviours: Sequence[Behaviour],
    budget: Budget,
    most_amounts: Mapping[Granularity, int],
    rounds: int,
    prepared: PreparedCorrection,
    search: SearchOutcome | None,
) -> list[str]:
    """Return what to try, in one or two sentences each; empty if there is nothing to advise.

    `rounds` is the largest number of rounds per granularity.
    """
    if prepared.too_weak is not None:
        pairs = zip(behaviours, prepared.behaviours, strict=True)
        return [text for pair in pairs if (text := _advise_signal(*pair))]
    if search is None:
        return []
    chosen = search.chosen_trial
    found = (
        _advise_search(search.trials, budget)
        if chosen is None
        else _advise_amounts(chosen, budget, most_amounts),
        _advise_rounds(search.trials, chosen, budget, rounds),
    )
    return [text for text in found if text is not None]


def describe_search(trials: Sequence[Trial]) -> str:
    """Return why no trial was chosen, with numbers of trials."""
    within = [trial for trial in trials if trial.within_budget]
    better = [trial for trial in trials if _improves(trial)]
    return (
        "nothing tried improves every behaviour on the tuning prompts within the budget: of "
        f"{len(trials)} trials {len(within)} kept within it and {len(better)} improved every "
        "behaviour, none both"
    )


def _improves(trial: Trial) -> bool:
    return all(gain > 0 for gain in trial.gains)


def _advise_signal(behaviour: Behaviour, prepared: PreparedBehaviour) -> str:
    """Return what to do about a behaviour that the base model hardly shows; "" if it shows it."""
    counts = [len(prepared.triggering(held_out=held_out)) for held_out in (False, True)]
    if min(counts) >= MIN_TRIGGERING:
        return ""
    sides = {scorer.direction for scorer in behaviour.scorers}
    sign = "≤" if sides == {Direction.HIGHER_IS_BETTER} else "≥"
    return (
        f"A prompt counts for {behaviour.name} when one of its responses scores {sign} "
        f"{behaviour.threshold:g} by {behaviour.agreeing} of {len(behaviour.scorers)} scorers; "
        f"{counts[0]} tuning and {counts[1]} held-out prompts do, {MIN_TRIGGERING} of each are "
        "needed. Give more prompts that bring it out, or decoding.samples of each; if responses "
        "that you call undesired are not found, change what is looked for: threshold, phrases, "
        "pattern or evaluators."
    )


def _advise_search(trials: Sequence[Trial], budget: Budget) -> str:
    limits = (
        f"KL {BUDGET_SHARE * budget.kl_mean:.3g} and perplexity "
        f"{BUDGET_SHARE * budget.perplexity_increase:+.2%}"
    )
    used = f"The search may use {BUDGET_SHARE:.0%} of the budget, {limits} on tuning text."
    if not any(trial.within_budget for trial in trials):
        return f"{used} Every trial took more. Give smaller search.amounts or a larger budget."
    if not any(map(_improves, trials)):
        return (
            f"{used} No trial improved every behaviour, at whatever cost. Try another "
            "attribution.granularity, larger search.amounts, or more prompts to learn from."
        )
    return (
        f"{used} What improves every behaviour takes more. Try another attribution.granularity, "
        "finer search.amounts, or a larger budget."
    )


def _advise_amounts(
    trial: Trial, budget: Budget, most_amounts: Mapping[Granularity, int]
) -> str | None:
    """Return a note if the search stopped at its largest amount, far below its budget."""
    kind, amount = trial.settings.granularity, trial.amount
    most = most_amounts.get(kind)
    if most is None or amount < most:
        return None
    shares = compute_text_uses(trial, budget)
    times = _foretell_times(max(shares))
    if times < WORTHWHILE:
        return None
    return (
        f"The search stopped at its largest amount, {most:,} {kind.value}s, with "
        f"{shares[0]:.0%} of the KL budget and {shares[1]:.0%} of the perplexity budget used on "
        f"tuning text: larger search.amounts, up to about {_round(amount * times):,}, may do more."
    )


def _advise_rounds(
    trials: Sequence[Trial], chosen: Trial | None, budget: Budget, rounds: int
) -> str | None:
    """Return a note if rounds ran out before slices were spared that kept the best trial away."""
    finished = {
        trial.settings.granularity
        for trial in trials
        if trial.settings.origin == name_round(rounds)
    }
    missed = [
        trial
        for trial in trials
        if trial.settings.granularity in finished and _is_over_slices_alone(trial, budget)
    ]
    best = max(missed, key=lambda trial: trial.gain, default=None)
    gain = 0.0 if chosen is None else chosen.gain
    if best is None or best.gain - gain < LEAST_RISE:
        return None
    settings = best.settings
    told = "nothing was chosen" if chosen is None else f"the chosen trial gained {gain:.0%}"
    return (
        f"Protected slices bound the search: {settings.origin} of {settings.granularity.value}s "
        f"gained {best.gain:.0%} and was within the budget but for {best.bound_by}, while {told}. "
        f"From each round the search learns which slices to spare, and all {rounds} were used: "
        "more search.rounds may keep that gain within their limits."
    )


def _is_over_slices_alone(trial: Trial, budget: Budget) -> bool:
    """Return whether nothing but protected slices keeps the trial out of the search's budget."""
    if trial.within_budget or max(trial.answers.values(), default=0.0) > 1:
        return False
    return max(compute_text_uses(trial, budget)) <= BUDGET_SHARE


def _foretell_times(use: float) -> float:
    """Return by what factor the amount could grow within the search's share of the budget."""
    if use <= 0:
        return MOST_TIMES
    return float(min(MOST_TIMES, (BUDGET_SHARE / use) ** (1 / DAMAGE_EXPONENT)))


def _round(amount: float) -> int:
    """Return the amount to two significant digits."""
    return int(float(f"{amount:.2g}"))
