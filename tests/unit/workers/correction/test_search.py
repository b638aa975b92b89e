"""The search in rounds: what each ranks by, how amounts move, best within budget or nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch

from tests.unit.workers.correction.cases import build_trial, respond_with
from workers.correction.results import Response, SearchOutcome, Trial, TrialSettings
from workers.correction.search import (
    Benefit,
    Budget,
    Measurement,
    SearchSteps,
    choose_trial,
    find_front,
    search_rounds,
    try_settings,
)
from workers.domain import Granularity, Selection, TokenSequence
from workers.pruning.ranking import Ranking, rank_components
from workers.pruning.scoring import combine_benefits
from workers.pruning.selection import list_indices
from workers.validation.text_damage import TextDamage

SIZE = 40
NEURON = Granularity.NEURON
BUDGET = Budget(perplexity_increase=0.05, kl_mean=0.1)
LOOP = (TokenSequence((1,), (2, 2)),)
RUDE = (TokenSequence((3,), (4, 4)), TokenSequence((5,), (6,)))


def falling() -> dict[str, torch.Tensor]:
    return {"m0": torch.arange(SIZE, 0, -1).float()}


def damage(perplexity: float = 10.4, kl: float = 0.0) -> TextDamage:
    """By default most of the budget, so that the amount stays; the base's perplexity is 10."""
    return TextDamage(perplexity=perplexity, kl_mean=kl, kl_p95=kl, tokens=100)


@dataclass
class Bench:
    """Fake steps: each round's gains, damage and what is left undesired are given."""

    gains: Sequence[tuple[float, ...]] = ((0.5,),) * 9
    costs: Sequence[TextDamage] = (damage(),) * 9
    left: Sequence[tuple[tuple[TokenSequence, ...], ...]] = ((LOOP,),) * 9
    explanation: Callable[[int], tuple[Benefit, float]] = lambda number: (falling(), 1.0)
    benefits: list[Mapping[str, torch.Tensor]] = field(default_factory=lambda: [falling()])
    told: list[Trial] = field(default_factory=list)
    explained: list[tuple[Granularity, int, Sequence[TokenSequence]]] = field(default_factory=list)

    def rank(self, benefits: Sequence[Benefit], settings: TrialSettings) -> Ranking:
        return rank_components(combine_benefits(benefits), NEURON, settings.amount)

    def measure(self, selection: Selection, settings: TrialSettings) -> Measurement:
        number = len(self.told)
        responses = (((respond_with(0.5, text=settings.origin),),),)
        return Measurement(
            responses, self.gains[number], self.costs[number], 10.0, self.left[number]
        )

    def explain(
        self, granularity: Granularity, number: int, undesired: Sequence[TokenSequence]
    ) -> tuple[Benefit, float]:
        self.explained.append((granularity, number, undesired))
        return self.explanation(number)

    @property
    def steps(self) -> SearchSteps:
        return SearchSteps(self.rank, self.measure, self.explain, self.told.append)

    def run(self, amounts: Sequence[int] = (4,), rounds: int = 3) -> list[Trial]:
        return search_rounds(self.benefits, NEURON, amounts, rounds, self.steps, BUDGET)


def amounts_of(trials: Sequence[Trial]) -> list[int]:
    return [trial.amount for trial in trials]


def indices_of(trial: Trial) -> list[int]:
    return list_indices(trial.selection.to_selection())["m0"]


def test_a_trial_holds_what_was_measured_and_is_told() -> None:
    bench = Bench(gains=[(0.3,)], costs=[damage(10.2, 0.03)])
    (trial,) = bench.run((2,), 1)
    assert indices_of(trial) == [0, 1]
    assert trial.settings == TrialSettings(origin="round 1", granularity=NEURON, amount=2)
    assert trial.responses[0][0][0].text == "round 1"
    assert (trial.gains, trial.gain) == ((0.3,), 0.3)
    assert (trial.perplexity, trial.base_perplexity, trial.kl_mean) == (10.2, 10.0, 0.03)
    assert trial.perplexity_increase == pytest.approx(0.02)
    assert trial.within_budget
    assert bench.told == [trial]


def test_rounds_are_numbered() -> None:
    assert [trial.settings.origin for trial in Bench().run()] == ["round 1", "round 2", "round 3"]


@pytest.mark.parametrize(
    ("costs", "amounts", "expected"),
    [
        # Room, over, most of the budget, most of the budget.
        ([damage(9.0, 0.01), damage(kl=0.2), damage(), damage()], (2, 4, 8), [4, 8, 4, 4]),
        ([damage(9.0, 0.01)] * 3, (2, 4), [4, 4, 4]),
        ([damage(kl=0.2)] * 4, (2, 4, 8), [4, 2, 2, 2]),
        # Twice the amount is foretold to cost four times as much, of either limit.
        ([damage(10.13, 0.0)] * 2, (2, 4, 8), [4, 4]),
        ([damage(10.0, 0.026)] * 2, (2, 4, 8), [4, 4]),
        ([damage(10.12, 0.024)] * 2, (2, 4, 8), [4, 8]),
        # Several steps at once, up and down.
        ([damage(10.0, 0.001)] * 2, (2, 3, 4, 5, 8, 40), [5, 40]),
        ([damage(10.0, 0.9)] * 2, (2, 3, 4, 9, 10, 11), [9, 3]),
        ([damage(10.0, 0.1001)] * 2, (2, 3, 9, 10, 11), [9, 3]),
        ([damage(math.nan)] * 2, (2, 4, 8), [4, 2]),
    ],
)
def test_the_next_amount_is_the_largest_foretold_to_stay_within_budget(
    costs: Sequence[TextDamage], amounts: Sequence[int], expected: list[int]
) -> None:
    assert amounts_of(Bench(costs=costs).run(amounts, len(costs))) == expected


def test_each_round_ranks_by_everything_explained_so_far() -> None:
    # Round 1 takes the first two; the next loop is held back by neuron 0 and served by 20.
    later = torch.zeros(SIZE)
    later[0], later[20] = -100.0, 100.0
    first, second = Bench(explanation=lambda number: ({"m0": later}, 1.0)).run((2,), 2)
    assert indices_of(first) == [0, 1]
    assert indices_of(second) == [1, 20]


def test_every_behaviour_averages_its_own_explanations() -> None:
    new = {0: (12.0, 1.0), 1: (30.0, 0.25)}

    def explain(number: int) -> tuple[Benefit, float]:
        value, weight = new[number]
        return {"m0": torch.full((SIZE,), value)}, weight

    bench = Bench(
        gains=((0.5, 0.5),) * 3,
        # Round 1 leaves the second behaviour alone, round 2 both, round 3 is the last.
        left=[((), RUDE), (LOOP, RUDE[:1]), (LOOP, RUDE)],
        explanation=explain,
        benefits=[{"m0": torch.full((SIZE,), 6.0)}, {"m0": torch.full((SIZE,), 3.0)}],
    )
    bench.run((4,), 3)
    assert bench.explained == [(NEURON, 1, RUDE), (NEURON, 0, LOOP), (NEURON, 1, RUDE[:1])]
    # (6 + 12) / 2 and (3 + (30 + 30) / 4) / 1.5, in place: later parts of a search go on from it.
    torch.testing.assert_close(bench.benefits[0]["m0"], torch.full((SIZE,), 9.0))
    torch.testing.assert_close(bench.benefits[1]["m0"], torch.full((SIZE,), 12.0))


def test_it_ends_when_nothing_undesired_is_left_of_any_behaviour() -> None:
    left = [((), RUDE), ((), ()), (LOOP, RUDE)]
    bench = Bench(gains=((0.5, 0.5),) * 3, left=left, benefits=[falling(), falling()])
    assert len(bench.run((4,), 3)) == 2
    assert len(bench.explained) == 1


def test_the_last_round_s_responses_are_not_explained() -> None:
    bench = Bench()
    bench.run((4,), 1)
    assert bench.explained == []


def test_a_ranking_shorter_than_the_amount_is_taken_whole() -> None:
    bench = Bench(benefits=[{"m0": torch.tensor([3.0, -1.0, 2.0])}])
    (trial,) = bench.run((8,), 1)
    assert indices_of(trial) == [0, 2]
    assert (trial.amount, trial.settings.amount) == (2, 8)


def test_an_empty_ranking_is_no_trial() -> None:
    bench = Bench(benefits=[{"m0": torch.tensor([-3.0, 0.0])}])
    assert bench.run() == []
    assert bench.told == []


def test_a_callback_that_raises_stops_the_search() -> None:
    def stop(trial: Trial) -> None:
        raise InterruptedError

    bench = Bench()
    steps = SearchSteps(bench.rank, bench.measure, bench.explain, stop)
    with pytest.raises(InterruptedError):
        search_rounds([falling()], NEURON, (4,), 2, steps, BUDGET)


def test_settings_are_tried_as_they_are() -> None:
    settings = TrialSettings(
        origin="refinement 3",
        granularity=NEURON,
        amount=3,
        cost_weight=0.7,
        first_layer=1,
        last_layer=4,
        ablation="mean",
    )
    bench = Bench(costs=[damage(kl=0.11)])
    tried = try_settings([falling()], settings, bench.steps, BUDGET)
    assert tried is not None
    trial, measured = tried
    assert trial.settings == settings
    assert indices_of(trial) == [0, 1, 2]
    assert not trial.within_budget
    assert measured.undesired == (LOOP,)


# --- the choice ----------------------------------------------------------------------------


def test_the_largest_mean_gain_within_budget_is_chosen() -> None:
    trials = [build_trial((0.2, 0.4)), build_trial((0.35, 0.35)), build_trial((0.1, 0.2))]
    assert choose_trial(trials) == 1
    over = build_trial((0.9, 0.9), within=False)
    assert choose_trial([*trials, over]) == 1
    assert choose_trial([over]) is None
    assert choose_trial([]) is None


def test_every_behaviour_must_gain() -> None:
    for spoiled in ((0.9, 0.0), (0.9, -0.1), (-0.1, 0.9), (0.9, math.nan)):
        assert choose_trial([build_trial(spoiled), build_trial((0.1, 0.1))]) == 1
        assert choose_trial([build_trial(spoiled)]) is None


def test_of_equals_the_fewest_components_are_chosen() -> None:
    sizes = [3, 2, 4, 2]
    trials = [build_trial((0.5,), indices={"m0": list(range(size))}) for size in sizes]
    assert choose_trial(trials) == 1


def test_the_front_is_what_no_other_trial_beats_in_gain_and_divergence() -> None:
    points = [(0.5, 0.02), (0.4, 0.01), (0.3, 0.015), (0.5, 0.03), (0.6, 0.09), (0.1, 0.01)]
    trials = [build_trial((gain,), kl=kl) for gain, kl in points]
    assert find_front(trials) == (0, 1, 4)
    # Equal ones do not beat each other; budget does not matter to a front.
    assert find_front([trials[0], trials[0]]) == (0, 1)
    assert find_front([build_trial((0.9,), kl=0.5, within=False), trials[0]]) == (0, 1)
    assert find_front([]) == ()
    # The gain is the mean over behaviours.
    assert find_front([build_trial((0.9, 0.1)), build_trial((0.6, 0.6))]) == (1,)


@pytest.mark.parametrize(
    ("perplexity", "kl", "allowed"),
    [
        (10.4, 0.1, True),
        (10.4, 0.1001, False),
        (10.51, 0.0, False),
        (1.0, 0.0, True),
        (math.nan, 0.0, False),
        (10.0, math.nan, False),
    ],
)
def test_a_budget_needs_both_limits(perplexity: float, kl: float, allowed: bool) -> None:
    assert BUDGET.allows(10.0, damage(perplexity, kl)) is allowed


def test_a_share_of_a_budget_shrinks_both_limits() -> None:
    assert BUDGET.scaled(0.5) == Budget(perplexity_increase=0.025, kl_mean=0.05)


def test_an_outcome_knows_its_chosen_trial() -> None:
    trials = (build_trial((0.1,)), build_trial((0.5,), indices={"m1": [3, 4]}))
    outcome = SearchOutcome(trials=trials, chosen=1)
    assert outcome.chosen_trial is trials[1]
    assert outcome.selection is not None
    assert list_indices(outcome.selection) == {"m1": [3, 4]}
    nothing = SearchOutcome(trials=trials, chosen=None)
    assert (nothing.chosen_trial, nothing.selection) == (None, None)


def test_outcomes_survive_json_with_equal_bytes() -> None:
    trials = Bench(gains=[(0.5,), (0.7,)]).run((3,), 2)
    outcome = SearchOutcome(trials=tuple(trials), chosen=1, alone=(trials[0].selection,))
    data = outcome.to_bytes()
    parsed = SearchOutcome.model_validate_json(data)
    assert parsed == outcome
    assert parsed.to_bytes() == data


def test_documents_refuse_unknown_fields_and_changes() -> None:
    fields = {"text": "x", "token_ids": (1,), "scores": (0.5,)}
    with pytest.raises(ValueError, match="extra"):
        Response.model_validate(fields | {"extra": 1})
    with pytest.raises(ValueError, match="frozen"):
        Response(**fields).text = "y"
