"""The search in rounds: what each ranks by, how amounts move, best within budget or nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch

from excise.names import BudgetLimit, Granularity
from tests.unit.workers.correction.cases import build_trial, respond_with
from workers.correction.results import (
    Response,
    SearchOutcome,
    SliceDamage,
    Trial,
    TrialSettings,
)
from workers.correction.search import (
    CHEAPER,
    DEARER,
    LEAST_DEAR,
    MOST_DEAR,
    Amounts,
    Benefit,
    Budget,
    ListedAmounts,
    Measurement,
    OpenAmounts,
    SearchSteps,
    choose_trial,
    find_front,
    raise_prices,
    search_rounds,
    try_settings,
)
from workers.domain import Selection, TokenSequence
from workers.measuring.text_damage import TextDamage
from workers.pruning.ranking import Ranking, rank_components
from workers.pruning.scoring import combine_benefits
from workers.pruning.selection import list_indices

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
    lost: Sequence[Mapping[str, SliceDamage]] = ({},) * 9
    budget: Budget = BUDGET
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
            responses=responses,
            gains=self.gains[number],
            damage=self.costs[number],
            base_perplexity=10.0,
            slices=self.lost[number],
            undesired=self.left[number],
        )

    def explain(
        self, granularity: Granularity, number: int, undesired: Sequence[TokenSequence]
    ) -> tuple[Benefit, float]:
        self.explained.append((granularity, number, undesired))
        return self.explanation(number)

    @property
    def steps(self) -> SearchSteps:
        return SearchSteps(self.rank, self.measure, self.explain, self.told.append)

    def run(self, amounts: Sequence[int] | Amounts = (4,), rounds: int = 3) -> list[Trial]:
        chosen = ListedAmounts(amounts) if isinstance(amounts, Sequence) else amounts
        return search_rounds(self.benefits, NEURON, chosen, rounds, self.steps, self.budget)


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
    # 0.03 of 0.1 nats, and 2 of 5 %.
    assert trial.bound_by == BudgetLimit.PERPLEXITY
    assert trial.use == pytest.approx(0.4)
    assert trial.slices == {}
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
        search_rounds([falling()], NEURON, ListedAmounts((4,)), 2, steps, BUDGET)


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
    (trial,) = Bench(costs=[damage(perplexity, kl)]).run((4,), 1)
    assert trial.within_budget is allowed


def lost(nats: float = 0.0, accuracy: float = 0.0) -> SliceDamage:
    return SliceDamage(nats_rise=nats, accuracy_fall=accuracy)


GUARDED = replace(BUDGET, slices={"words": lost(0.05, 0.02), "lists": lost(0.1, 0.04)})


def test_a_share_of_a_budget_shrinks_every_limit() -> None:
    assert BUDGET.scaled(0.5) == Budget(perplexity_increase=0.025, kl_mean=0.05)
    assert GUARDED.scaled(0.5).slices == {"words": lost(0.025, 0.01), "lists": lost(0.05, 0.02)}


# --- the worst of all limits ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("cost", "words", "lists", "bound_by", "use"),
    [
        (damage(10.2, 0.01), lost(), lost(), BudgetLimit.PERPLEXITY, 0.4),
        (damage(10.2, 0.06), lost(0.01), lost(0.05), BudgetLimit.DIVERGENCE, 0.6),
        (damage(10.2, 0.06), lost(0.01), lost(0.09), "lists", 0.9),
        (damage(10.2, 0.06), lost(0.0, 0.019), lost(0.09), "words", 0.95),
        (damage(10.2, 0.06), lost(0.06), lost(0.09, 0.04), "words", 1.2),
        (damage(9.0, -0.1), lost(-1.0, -1.0), lost(0.0, 0.01), "lists", 0.25),
        (damage(10.2, 0.06), lost(math.nan), lost(), "words", math.inf),
        (damage(10.2, 0.06), lost(0.0, math.nan), lost(), "words", math.inf),
    ],
)
def test_the_limit_that_is_used_up_most_binds(
    cost: TextDamage, words: SliceDamage, lists: SliceDamage, bound_by: str, use: float
) -> None:
    bench = Bench(costs=[cost], lost=[{"words": words, "lists": lists}], budget=GUARDED)
    (trial,) = bench.run((4,), 1)
    assert trial.bound_by == bound_by
    assert trial.use == pytest.approx(use)
    assert trial.within_budget is (use <= 1)
    assert trial.slices.keys() == {"words", "lists"}


def test_a_limit_of_nothing_bears_no_damage_at_all() -> None:
    nothing = replace(BUDGET, slices={"words": lost(0.0, 1.0)})
    for nats, within in ((-0.1, True), (0.0, True), (1e-9, False)):
        bench = Bench(lost=[{"words": lost(nats)}], budget=nothing)
        (trial,) = bench.run((4,), 1)
        assert trial.within_budget is within


# --- what a slice that lost too much costs from then on --------------------------------------


def price_of(price: float, use: float) -> float:
    """The next price of a slice's damage; 0 where it has none."""
    budget = Budget(1.0, 1.0, {"words": lost(0.1, 1.0)})
    before = {"words": price} if price else {}
    return raise_prices(before, budget, {"words": lost(0.1 * use)}).get("words", 0.0)


def test_a_slice_beyond_its_limit_becomes_dearer_by_as_much() -> None:
    assert price_of(0.0, 1.5) == pytest.approx(1.5)
    assert price_of(0.3, 1.5) == pytest.approx(1.5)  # from 1 on, however cheap it was
    assert price_of(2.0, 1.5) == pytest.approx(3.0)
    assert price_of(2.0, 40.0) == pytest.approx(2 * DEARER)
    assert price_of(60.0, 3.0) == MOST_DEAR
    assert price_of(2.0, math.inf) == pytest.approx(2 * DEARER)


def test_a_slice_within_its_limit_becomes_cheaper() -> None:
    assert price_of(4.0, 0.8) == pytest.approx(3.2)
    assert price_of(4.0, 0.1) == pytest.approx(4 * CHEAPER)
    assert price_of(4.0, 1.0) == pytest.approx(4.0)
    assert price_of(4.0, -3.0) == pytest.approx(4 * CHEAPER)
    assert price_of(LEAST_DEAR, 0.9) == 0.0
    assert price_of(0.0, 0.9) == 0.0


def test_prices_follow_each_slice_from_round_to_round() -> None:
    rounds = [
        {"words": lost(0.1), "lists": lost(0.05)},  # 2 and ½ of their limits
        {"words": lost(0.04), "lists": lost(0.15)},  # 0.8 and 1.5
        {"words": lost(), "lists": lost()},
    ]
    trials = Bench(lost=rounds, budget=GUARDED).run((4,), 3)
    assert [trial.settings.prices for trial in trials] == [
        {},
        {"words": pytest.approx(2.0)},
        {"words": pytest.approx(1.6), "lists": pytest.approx(1.5)},
    ]


def test_where_a_slice_binds_for_the_first_time_its_price_comes_before_the_amount() -> None:
    over = {"words": lost(0.1), "lists": lost()}
    within = {"words": lost(0.04), "lists": lost()}
    # The amount stays, as the price may be enough; then it falls, as it was not.
    trials = Bench(lost=[over, over, within], budget=GUARDED).run((2, 4, 8), 3)
    assert amounts_of(trials) == [4, 4, 2]
    # A limit on the text as a whole has no price: the amount falls at once.
    text = Bench(costs=[damage(kl=0.3)] * 2, lost=[over] * 2, budget=GUARDED).run((2, 4, 8), 2)
    assert [trial.bound_by for trial in text] == [BudgetLimit.DIVERGENCE] * 2
    assert amounts_of(text) == [4, 2]
    # So it does where the text, too, is beyond its limit, though less far than the slice.
    both = Bench(costs=[damage(kl=0.15)] * 2, lost=[over] * 2, budget=GUARDED).run((2, 4, 8), 2)
    assert [trial.bound_by for trial in both] == ["words"] * 2
    assert amounts_of(both) == [4, 2]


def test_another_slice_beyond_its_limit_is_left_to_its_price_as_well() -> None:
    words = {"words": lost(0.1), "lists": lost()}
    lists = {"words": lost(0.04), "lists": lost(0.3)}
    both = {"words": lost(0.1), "lists": lost(0.3)}
    bench = Bench(lost=[words, lists, both, both], budget=GUARDED)
    # In round 3 the lists are beyond theirs again, so the fourth prunes fewer.
    assert amounts_of(bench.run((2, 4, 8), 4)) == [4, 4, 4, 2]


def test_a_flat_search_goes_on_while_slices_alone_keep_a_larger_gain_out_of_budget() -> None:
    over = {"words": lost(0.1), "lists": lost()}
    within = {"words": lost(0.04), "lists": lost()}
    gains = [(0.4,), (0.5,), (0.5,), (0.5,), (0.1,), (0.1,), (0.1,)]
    lost_by_round = [within, over, over, within, within, within, within]
    bench = Bench(gains=gains, lost=lost_by_round, budget=GUARDED)
    # Flat since round 3; round 4 is the reward, and two more without a rise end it.
    assert len(bench.run(OpenAmounts(4, 40), 9)) == 6
    # Nothing is to be hoped for where the gain over budget is no larger,
    small = [(0.4,), (0.405,), (0.405,), (0.5,)]
    assert (
        len(Bench(gains=small, lost=[*lost_by_round], budget=GUARDED).run(OpenAmounts(4, 40), 4))
        == 3
    )
    # or where the text as a whole is beyond its limit, too.
    costs = [damage(), damage(), damage(kl=0.2), damage()]
    text = Bench(gains=gains, costs=costs, lost=lost_by_round, budget=GUARDED)
    assert len(text.run(OpenAmounts(4, 40), 4)) == 3


# --- amounts that the search finds ------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "use", "expected"),
    [
        (100, 0.9, 100),  # just what is aimed at
        (100, 0.0, 200),  # nothing was used: at most twice as many
        (100, 0.05, 200),
        (100, 0.5, 134),  # √(0.9 / 0.5)
        (100, 1.8, 71),  # √(0.9 / 1.8)
        (100, 50.0, 50),  # at least half as many
        (100, math.inf, 50),
        (1, 50.0, 1),
        (600, 0.0, 1000),  # no more than there are to choose from
        (1000, 0.9, 1000),
    ],
)
def test_the_next_open_amount_is_foretold_to_use_most_of_the_budget(
    last: int, use: float, expected: int
) -> None:
    assert OpenAmounts(1, 1000).choose_next(last, use) == expected


def test_an_open_search_grows_until_the_budget_binds() -> None:
    # Damage grows with the square of the amount, 0.9 of the budget at 8.
    costs = [damage(10.0, 0.09 * (amount / 8) ** 2) for amount in (2, 4, 8, 8)]
    gains = [(0.1,), (0.2,), (0.4,), (0.5,)]
    trials = Bench(gains=gains, costs=costs).run(OpenAmounts(2, 40), 4)
    assert amounts_of(trials) == [2, 4, 8, 8]
    assert amounts_of(Bench(gains=gains, costs=costs).run(OpenAmounts(2, 5), 4)) == [2, 4, 5, 5]


@pytest.mark.parametrize(
    ("gains", "rounds"),
    [
        ((0.1, 0.2, 0.3, 0.4, 0.5), 5),
        ((0.1, 0.2, 0.2, 0.2, 0.5), 4),  # two rounds without a rise after the best
        ((0.1, 0.2, 0.1, 0.205, 0.5), 4),  # half a point is none
        ((0.1, 0.2, 0.1, 0.25, 0.1), 5),  # one worse round does not end it
        ((-0.1, -0.1, -0.1, 0.5, 0.5), 3),
    ],
)
def test_an_open_search_ends_when_the_effect_is_flat(gains: Sequence[float], rounds: int) -> None:
    bench = Bench(gains=[(gain,) for gain in gains])
    assert len(bench.run(OpenAmounts(4, 40), 5)) == rounds
    listed = Bench(gains=[(gain,) for gain in gains])
    assert len(listed.run((4,), 5)) == 5  # a job that names its amounts gets its rounds


def test_a_gain_over_budget_is_no_rise() -> None:
    over = [damage(kl=0.2)] * 3
    gains = [(0.5,), (0.6,), (0.7,), (0.8,)]
    assert len(Bench(gains=gains, costs=[*over, damage()]).run(OpenAmounts(8, 40), 4)) == 3


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
