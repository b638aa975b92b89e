"""The thorough part of a search: amount, layers, cost and ablation varied by Optuna, on a front."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import optuna

from excise.names import Granularity
from workers.correction.results import Trial, TrialSettings
from workers.correction.search import Benefit, Budget, SearchSteps, try_settings

LEAST_COST_WEIGHT, LARGEST_COST_WEIGHT = 0.5, 1.5

STARTUP_TRIALS = 6
"""Trials, those known included, before which settings are drawn at random."""

_AMOUNT, _GRANULARITY, _FIRST, _LAST = "amount", "granularity", "first_layer", "last_layer"
_COST, _ABLATION = "cost_weight", "ablation"


@dataclass(frozen=True)
class Space:
    """What a refinement may vary."""

    amounts: Mapping[Granularity, tuple[int, int]]
    """Least and largest number of components, by granularity."""
    layers: int
    ablations: tuple[str, ...]


def refine(
    benefits: Mapping[Granularity, Sequence[Benefit]],
    known: Sequence[Trial],
    space: Space,
    steps: SearchSteps,
    budget: Budget,
    *,
    trials: int,
    seed: int,
    is_time_up: Callable[[], bool],
) -> list[Trial]:
    """Return up to `trials` further trials, each proposed from all before it and from `known`.

    Two figures are made good at once, the mean gain and the KL divergence, under the budget as a
    constraint: a multi-objective tree-structured Parzen estimator (Ozaki et al. 2022) as Optuna
    implements it. The same `known`, space and seed propose the same settings. A trial that had
    nothing to prune counts, and is not returned. Stops early when `is_time_up` says so.
    """
    prices = known[-1].settings.prices if known else {}
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    for trial in known:
        if trial.settings.ablation in space.ablations:  # else it has no place in the space
            study.enqueue_trial(_describe(trial.settings, space))
            asked = study.ask()
            _propose(asked, space, trial.settings.origin, prices)
            _tell(study, asked, trial, budget)
    found: list[Trial] = []
    for number in range(1, trials + 1):
        if is_time_up():
            break
        asked = study.ask()
        settings = _propose(asked, space, f"refinement {number}", prices)
        tried = try_settings(benefits[settings.granularity], settings, steps, budget)
        if tried is None:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
            continue
        trial, _ = tried
        found.append(trial)
        _tell(study, asked, trial, budget)
    return found


def _tell(study: optuna.Study, asked: optuna.Trial, trial: Trial, budget: Budget) -> None:
    """Have the study learn from a trial: its two figures, and by how much it is over budget."""
    asked.set_constraint("perplexity", trial.perplexity_increase - budget.perplexity_increase)
    asked.set_constraint("kl", trial.kl_mean - budget.kl_mean)
    asked.set_constraint("slices", max(_list_excesses(trial, budget), default=0.0))
    study.tell(asked, [trial.gain, trial.kl_mean])


def _list_excesses(trial: Trial, budget: Budget) -> list[float]:
    """Return by how much each protected slice is beyond its limit, in shares of it."""
    return [trial.slices[name].compute_share(limit) - 1 for name, limit in budget.slices.items()]


def _propose(
    asked: optuna.Trial, space: Space, origin: str, prices: dict[str, float]
) -> TrialSettings:
    names = [entry.value for entry in space.amounts]
    granularity = Granularity(asked.suggest_categorical(_GRANULARITY, names))
    low, high = space.amounts[granularity]
    middle, last = space.layers // 2, space.layers - 1
    return TrialSettings(
        origin=origin,
        granularity=granularity,
        amount=asked.suggest_int(f"{_AMOUNT}_{granularity.value}", low, high, log=True),
        first_layer=asked.suggest_int(_FIRST, 0, middle),
        last_layer=asked.suggest_int(_LAST, middle, last),
        cost_weight=asked.suggest_float(_COST, LEAST_COST_WEIGHT, LARGEST_COST_WEIGHT),
        ablation=asked.suggest_categorical(_ABLATION, space.ablations),
        prices=prices,
    )


def _describe(settings: TrialSettings, space: Space) -> dict[str, int | float | str]:
    """Return the parameters by which `_propose` comes to the settings of a trial made otherwise.

    Rounds may take an amount beyond the space; it counts as the nearest one in it.
    """
    low, high = space.amounts[settings.granularity]
    return {
        _GRANULARITY: settings.granularity.value,
        f"{_AMOUNT}_{settings.granularity.value}": min(max(settings.amount, low), high),
        _FIRST: settings.first_layer,
        _LAST: space.layers - 1 if settings.last_layer is None else settings.last_layer,
        _COST: settings.cost_weight,
        _ABLATION: settings.ablation,
    }
