"""The thorough part of a search: Optuna varies amount, layers, cost weight and ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna

from excise.names import Granularity
from workers.correction.budget import Budget
from workers.correction.results import Trial, TrialSettings

LEAST_COST_WEIGHT, LARGEST_COST_WEIGHT = 0.5, 1.5
"""Range of the exponent of the predicted damage in a score; rounds use 1. Chosen by hand. Exponents
1.4 and 1.8 were measured on SmolLM2 against toxicity and were not better than 1 beyond the noise
(benchmarks/RESULTS.md, "cost to the power")."""

STARTUP_TRIALS = 6
"""Settings are drawn at random until there are this many trials, including the known ones. Chosen
by hand; not measured."""

_AMOUNT, _GRANULARITY, _FIRST, _LAST = "amount", "granularity", "first_layer", "last_layer"
_COST, _ABLATION = "cost_weight", "ablation"


@dataclass(frozen=True)
class Space:
    """The search space of a refinement."""

    amounts: Mapping[Granularity, tuple[int, int]]
    """Granularity → smallest and largest number of components."""
    layers: int
    """Number of layers of the model."""
    ablations: tuple[str, ...]


class Refinement:
    """Proposes settings one after another, each based on all earlier trials.

    The mean gain and the KL divergence are optimised together, with the budget as a constraint, by
    Optuna's multi-objective tree-structured Parzen estimator (Ozaki et al. 2022). The same known
    trials, space and seed give the same proposals.
    """

    def __init__(self, space: Space, budget: Budget, known: Sequence[Trial], seed: int) -> None:
        self._space = space
        self._budget = budget
        self._prices = known[-1].settings.prices if known else {}
        self._emphasis = known[-1].settings.emphasis if known else ()
        self._proposed = 0
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
        self._study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
        for trial in known:
            if trial.settings.ablation in space.ablations:  # otherwise it is outside the space
                self._study.enqueue_trial(_describe(trial.settings, space))
                self._asked = self._study.ask()
                self._suggest(trial.settings.origin)
                self.learn(trial)

    def propose(self) -> TrialSettings:
        """Return the settings to try next; call `learn` with the result of the last ones first."""
        self._proposed += 1
        self._asked = self._study.ask()
        return self._suggest(f"refinement {self._proposed}")

    def learn(self, trial: Trial | None) -> None:
        """Learn from the result of the last settings proposed; None if they pruned nothing.

        Optuna is told the trial's two figures and by how much it exceeds each limit; protected
        slices and gates on answers are one constraint, that of the furthest beyond its limit.
        """
        if trial is None:
            self._study.tell(self._asked, state=optuna.trial.TrialState.FAIL)
            return
        budget, asked = self._budget, self._asked
        uses = {**budget.compute_slice_uses(trial.slices), **trial.answers}
        asked.set_constraint("perplexity", trial.perplexity_increase - budget.perplexity_increase)
        asked.set_constraint("kl", trial.kl_mean - budget.kl_mean)
        asked.set_constraint("slices", max(uses.values(), default=1.0) - 1)
        self._study.tell(asked, [trial.gain, trial.kl_mean])

    def _suggest(self, origin: str) -> TrialSettings:
        asked, space = self._asked, self._space
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
            prices=self._prices,
            emphasis=self._emphasis,
        )


def _describe(settings: TrialSettings, space: Space) -> dict[str, int | float | str]:
    """Return Optuna's parameters for the settings of a trial that it did not propose.

    If a round's amount is outside the space, the nearest one inside is taken.
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
