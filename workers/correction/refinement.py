"""The thorough part of a search: amount, layers, cost and ablation varied by Optuna, on a front."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import optuna

from workers.correction.results import Trial, TrialSettings
from workers.correction.search import Benefit, Budget, SearchSteps, try_settings
from workers.domain import Granularity

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
    study = _build_study(seed)
    for trial in known:
        if trial.settings.ablation in space.ablations:  # else it has no place in the space
            study.add_trial(_describe(trial, space, budget))
    found: list[Trial] = []
    for number in range(1, trials + 1):
        if is_time_up():
            break
        asked = study.ask()
        settings = _propose(asked, space, f"refinement {number}")
        tried = try_settings(benefits[settings.granularity], settings, steps, budget)
        if tried is None:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)
            continue
        trial, _ = tried
        found.append(trial)
        for limit, excess in _compute_excess(trial, budget).items():
            asked.set_constraint(limit, excess)
        study.tell(asked, [trial.gain, trial.kl_mean])
    return found


def _build_study(seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)


def _compute_excess(trial: Trial, budget: Budget) -> dict[str, float]:
    """Return limit → what the trial is over it, at most 0 where it keeps it."""
    return {
        "perplexity": trial.perplexity_increase - budget.perplexity_increase,
        "kl": trial.kl_mean - budget.kl_mean,
    }


def _distributions(
    space: Space, granularity: Granularity
) -> dict[str, optuna.distributions.BaseDistribution]:
    low, high = space.amounts[granularity]
    middle, last = space.layers // 2, space.layers - 1
    names = [entry.value for entry in space.amounts]
    return {
        _GRANULARITY: optuna.distributions.CategoricalDistribution(names),
        f"{_AMOUNT}_{granularity.value}": optuna.distributions.IntDistribution(low, high, log=True),
        _FIRST: optuna.distributions.IntDistribution(0, middle),
        _LAST: optuna.distributions.IntDistribution(middle, last),
        _COST: optuna.distributions.FloatDistribution(LEAST_COST_WEIGHT, LARGEST_COST_WEIGHT),
        _ABLATION: optuna.distributions.CategoricalDistribution(space.ablations),
    }


def _propose(asked: optuna.Trial, space: Space, origin: str) -> TrialSettings:
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
    )


def _describe(trial: Trial, space: Space, budget: Budget) -> optuna.trial.FrozenTrial:
    """Return a trial made by other means as one that Optuna learns from."""
    settings = trial.settings
    low, high = space.amounts[settings.granularity]
    last = space.layers - 1
    return optuna.trial.create_trial(
        params={
            _GRANULARITY: settings.granularity.value,
            f"{_AMOUNT}_{settings.granularity.value}": min(max(settings.amount, low), high),
            _FIRST: settings.first_layer,
            _LAST: last if settings.last_layer is None else settings.last_layer,
            _COST: settings.cost_weight,
            _ABLATION: settings.ablation,
        },
        distributions=_distributions(space, settings.granularity),
        values=[trial.gain, trial.kl_mean],
        constraints=_compute_excess(trial, budget),
    )
