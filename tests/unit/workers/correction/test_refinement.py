"""Refinement: what Optuna may propose, what it learns from, and when it stops."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean

import optuna
import pytest
import torch

from excise.names import Granularity
from tests.unit.workers.correction.cases import build_trial
from workers.correction.budget import Budget
from workers.correction.refinement import (
    LARGEST_COST_WEIGHT,
    LEAST_COST_WEIGHT,
    STARTUP_TRIALS,
    Space,
)
from workers.correction.results import SliceDamage, Trial, TrialSettings
from workers.correction.search import (
    Benefit,
    MeanBenefit,
    Measurement,
    Ranked,
    Search,
    SearchPlan,
    Tried,
)
from workers.domain import Selection
from workers.measuring.text_damage import TextDamage
from workers.pruning.ranking import rank_components

NEURON, HEAD = Granularity.NEURON, Granularity.HEAD
BUDGET = Budget(perplexity_increase=0.02, kl_mean=0.03)
SPACE = Space({NEURON: (4, 64), HEAD: (1, 6)}, layers=10, ablations=("zero", "mean"))
NEURONS_ONLY = replace(SPACE, amounts={NEURON: (4, 64)})
BENEFITS = {
    NEURON: [{"m0": torch.arange(100, 0, -1).float()}],
    HEAD: [{"a0": torch.arange(8, 0, -1).float()}],
}

Figures = tuple[float, float, float]
"""Gain, KL divergence and perplexity; the base model's perplexity is 10."""

Effect = Callable[[TrialSettings, Selection], Figures]


def more_is_better_and_dearer(settings: TrialSettings, chosen: Selection) -> Figures:
    """Gain and KL divergence of a selection, both in proportion to its size."""
    return len(chosen) / 100, len(chosen) / 1000, 10.0


@dataclass
class Bench:
    """A fake model: settings and sizes go in, what `effect` says comes out."""

    effect: Effect = more_is_better_and_dearer
    lose: Callable[[Selection], dict[str, SliceDamage]] = lambda chosen: {}
    budget: Budget = BUDGET
    upset: Callable[[Selection], dict[str, float]] = lambda chosen: {}
    ranked: list[tuple[Sequence[Benefit], TrialSettings]] = field(default_factory=list)
    told: list[Trial] = field(default_factory=list)

    def rank(self, benefits: Sequence[Benefit], settings: TrialSettings) -> Ranked:
        self.ranked.append((benefits, settings))
        return Ranked(rank_components(benefits[0], settings.granularity, settings.amount))

    def measure(self, selection: Selection, settings: TrialSettings) -> Measurement:
        gain, kl, perplexity = self.effect(settings, selection)
        damage = TextDamage(perplexity=perplexity, kl_mean=kl, kl_p95=kl, tokens=10)
        return Measurement(
            responses=((),),
            gains=(gain,),
            attained=(1.0,),
            damage=damage,
            base_perplexity=10.0,
            slices=self.lose(selection),
            answers=self.upset(selection),
            undesired=((),),
        )

    def explain(self, *arguments: object) -> tuple[Benefit, float]:
        raise AssertionError("a refinement explains nothing anew")

    def run(
        self,
        space: Space = SPACE,
        *,
        known: Sequence[Trial] = (),
        trials: int = 12,
        seed: int = 0,
        is_time_up: Callable[[], bool] = lambda: False,
        benefits: Mapping[Granularity, Sequence[Benefit]] = BENEFITS,
    ) -> list[Trial]:
        """The trials of a refinement alone."""
        plan = SearchPlan(0, {}, space, refinements=trials, max_rank=None)
        means = {kind: [MeanBenefit(one) for one in own] for kind, own in benefits.items()}
        search = Search(self, plan, means, self.budget, seed, self.told.append)
        search.tried += [Tried(trial, None) for trial in known]
        search.refine(is_time_up)
        return list(search.trials[len(known) :])


def settings_of(trials: Sequence[Trial]) -> list[TrialSettings]:
    return [trial.settings for trial in trials]


def test_every_proposal_lies_in_the_space() -> None:
    found = Bench().run(trials=24)
    assert len(found) == 24
    for settings in settings_of(found):
        low, high = SPACE.amounts[settings.granularity]
        assert low <= settings.amount <= high
        assert 0 <= settings.first_layer <= 5 <= settings.last_layer <= 9
        assert LEAST_COST_WEIGHT <= settings.cost_weight <= LARGEST_COST_WEIGHT
        assert settings.ablation in SPACE.ablations
    for vary in ("granularity", "amount", "first_layer", "last_layer", "ablation"):
        assert len({getattr(settings, vary) for settings in settings_of(found)}) > 1
    assert [settings.origin for settings in settings_of(found)] == [
        f"refinement {number}" for number in range(1, 25)
    ]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_few_layers_leave_a_range(layers: int) -> None:
    for settings in settings_of(Bench().run(replace(SPACE, layers=layers), trials=8)):
        assert settings.last_layer is not None
        assert 0 <= settings.first_layer <= settings.last_layer < layers


def test_a_space_of_one_point_is_tried_as_it_is() -> None:
    space = Space({NEURON: (5, 5)}, layers=1, ablations=("mean",))
    (settings,) = settings_of(Bench().run(space, trials=1))
    assert (settings.amount, settings.ablation) == (5, "mean")


def test_each_trial_ranks_the_benefits_of_its_granularity() -> None:
    bench = Bench()
    bench.run(trials=20)
    for benefits, settings in bench.ranked:
        (own,) = benefits
        assert own is BENEFITS[settings.granularity][0]
    assert {settings.granularity for _, settings in bench.ranked} == {NEURON, HEAD}


def test_a_trial_holds_what_was_measured_and_is_told() -> None:
    bench = Bench(lambda settings, chosen: (0.25, 0.05, 10.0))
    (trial,) = bench.run(NEURONS_ONLY, trials=1)
    assert (trial.gain, trial.kl_mean, trial.within_budget) == (0.25, 0.05, False)
    assert trial.amount == trial.settings.amount
    assert bench.told == [trial]


def test_a_seed_proposes_the_same_and_another_something_else() -> None:
    known = [build_trial((0.2,), amount=8), build_trial((0.3,), amount=16)]
    first = settings_of(Bench().run(known=known, seed=3, trials=14))
    assert settings_of(Bench().run(known=known, seed=3, trials=14)) == first
    assert settings_of(Bench().run(known=known, seed=4, trials=14)) != first


def test_it_stops_when_time_is_up() -> None:
    bench = Bench()
    found = bench.run(is_time_up=lambda: len(bench.told) >= 3)
    assert len(found) == 3
    assert Bench().run(is_time_up=lambda: True) == []


def test_a_trial_with_nothing_to_prune_counts_and_is_not_returned() -> None:
    useless = {NEURON: [{"m0": torch.zeros(100)}], HEAD: BENEFITS[HEAD]}
    bench = Bench()
    found = bench.run(trials=15, benefits=useless)
    neurons = sum(settings.granularity is NEURON for _, settings in bench.ranked)
    assert len(bench.ranked) == 15
    assert 0 < neurons < 15
    assert len(found) == 15 - neurons
    assert all(trial.settings.granularity is HEAD for trial in found)


AMOUNTS = (4, 5, 7, 9, 12, 16, 20, 26, 33, 42, 53, 64)
"""Twice as many as it takes to learn, over the whole range."""


def flat(settings: TrialSettings, chosen: Selection) -> Figures:
    """Whatever is proposed does the same: all there is to learn is in the known trials."""
    return 0.1, 0.01, 10.0


def mean_amount(known: Sequence[Trial], effect: Effect = flat) -> float:
    """Mean size proposed over several seeds."""
    return fmean(
        settings.amount
        for seed in range(4)
        for settings in settings_of(
            Bench(effect).run(NEURONS_ONLY, known=known, trials=4, seed=seed)
        )
    )


def test_it_learns_from_known_trials() -> None:
    few, many = (
        [build_trial((gain(amount),), amount=amount) for amount in AMOUNTS]
        for gain in (lambda amount: 1 - amount / 64, lambda amount: amount / 64)
    )
    assert mean_amount(few) + 15 < mean_amount(many)


def cost(amount: int, dearest: float) -> float:
    """Perplexity over budget from 20 components on; it is no figure that is made good itself."""
    return 10.1 if amount < 20 else dearest


def test_known_trials_over_budget_are_no_example() -> None:
    def known(dearest: float) -> list[Trial]:
        return [
            build_trial((amount / 64,), amount=amount, perplexity=cost(amount, dearest))
            for amount in AMOUNTS
        ]

    assert len(AMOUNTS) == 2 * STARTUP_TRIALS
    assert mean_amount(known(11.0)) + 10 < mean_amount(known(10.1))


def test_own_trials_over_budget_are_no_example() -> None:
    def late_mean(dearest: float) -> float:
        def effect(settings: TrialSettings, chosen: Selection) -> Figures:
            return len(chosen) / 100, 0.01, cost(len(chosen), dearest)

        return fmean(
            settings.amount
            for seed in range(3)
            for settings in settings_of(Bench(effect).run(NEURONS_ONLY, trials=20, seed=seed))[10:]
        )

    assert late_mean(11.0) + 10 < late_mean(10.1)


def test_trials_that_lose_a_slice_are_no_example() -> None:
    def late_mean(dearest: float) -> float:
        def lose(chosen: Selection) -> dict[str, SliceDamage]:
            rise = 0.01 if len(chosen) < 20 else dearest
            return {"words": SliceDamage(nats_rise=rise, accuracy_fall=0.0)}

        bench = Bench(
            lambda settings, chosen: (len(chosen) / 100, 0.01, 10.0),
            lose,
            replace(BUDGET, slices={"words": SliceDamage(nats_rise=0.05, accuracy_fall=0.02)}),
        )
        return fmean(
            settings.amount
            for seed in range(3)
            for settings in settings_of(bench.run(NEURONS_ONLY, trials=20, seed=seed))[10:]
        )

    assert late_mean(1.0) + 10 < late_mean(0.01)


def test_trials_that_upset_answers_are_no_example() -> None:
    def late_mean(use: float) -> float:
        bench = Bench(
            lambda settings, chosen: (len(chosen) / 100, 0.01, 10.0),
            upset=lambda chosen: {"longer:loops": 0.1 if len(chosen) < 20 else use},
        )
        return fmean(
            settings.amount
            for seed in range(3)
            for settings in settings_of(bench.run(NEURONS_ONLY, trials=20, seed=seed))[10:]
        )

    assert late_mean(20.0) + 10 < late_mean(0.1)


def test_prices_are_those_that_the_rounds_came_to() -> None:
    known = [
        build_trial((0.2,), amount=8),
        build_trial((0.3,), amount=16, prices={"words": 2.5, "lists": 0.2}),
    ]
    for settings in settings_of(Bench().run(known=known, trials=3)):
        assert settings.prices == {"words": 2.5, "lists": 0.2}
    assert [settings.prices for settings in settings_of(Bench().run(trials=2))] == [{}, {}]


def test_known_trials_outside_the_space_are_no_obstacle() -> None:
    # Rounds ablate by zero and count amounts of their own, from the first layer to the last.
    known = [build_trial((0.2,), amount=amount) for amount in (1, 1000)]
    only_mean = replace(NEURONS_ONLY, ablations=("mean",))
    assert len(Bench().run(only_mean, known=known, trials=3)) == 3
    assert len(Bench().run(NEURONS_ONLY, known=known, trials=3)) == 3


def test_the_process_keeps_its_log_level() -> None:
    before = optuna.logging.get_verbosity()
    Bench().run(trials=1)
    assert optuna.logging.get_verbosity() == before
    assert before != optuna.logging.WARNING  # else this shows nothing
