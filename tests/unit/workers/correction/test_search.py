"""The search: what each round ranks by, how amounts move, and what is done with the best trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch

from excise.names import BudgetLimit, Granularity
from tests.tiny import select_neurons
from tests.unit.workers.correction.cases import build_trial, respond_with
from tests.unit.workers.kinds.correction.correction_inputs import build_slice
from workers.correction.amounts import Amounts, ListedAmounts, OpenAmounts
from workers.correction.budget import BUDGET_SHARE, Budget
from workers.correction.choice import choose_trial
from workers.correction.protection import SEARCH_SHARE
from workers.correction.refinement import Space
from workers.correction.results import (
    Response,
    SearchOutcome,
    SliceDamage,
    Trial,
    TrialSettings,
)
from workers.correction.search import (
    Benefit,
    MeanBenefit,
    Measurement,
    Ranked,
    Search,
    SearchPlan,
    Tried,
    build_search_budget,
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


CHEAP = (damage(10.0, 0.01),) * 9


@dataclass
class Bench:
    """Fake steps: each round's gains, damage and what is left undesired are given."""

    gains: Sequence[tuple[float, ...]] = ((0.5,),) * 9
    attained: Sequence[tuple[float, ...]] = ((1.0,),) * 9
    costs: Sequence[TextDamage] = (damage(),) * 9
    left: Sequence[tuple[tuple[TokenSequence, ...], ...]] = ((LOOP,),) * 9
    lost: Sequence[Mapping[str, SliceDamage]] = ({},) * 9
    over: Sequence[Mapping[str, float]] = ({},) * 9
    budget: Budget = BUDGET
    explanation: Callable[[int], tuple[Benefit, float]] = lambda number: (falling(), 1.0)
    benefits: list[Mapping[str, torch.Tensor]] = field(default_factory=lambda: [falling()])
    unlimited: Ranking | None = None
    told: list[Trial] = field(default_factory=list)
    explained: list[tuple[Granularity, int, Sequence[TokenSequence]]] = field(default_factory=list)
    ranked: list[Sequence[Benefit]] = field(default_factory=list)
    learned: list[tuple[int, list[str]]] = field(default_factory=list)

    def rank(self, benefits: Sequence[Benefit], settings: TrialSettings) -> Ranked:
        self.ranked.append(benefits)
        ranking = rank_components(
            combine_benefits(benefits, None, settings.emphasis), NEURON, settings.amount
        )
        return Ranked(ranking, self.unlimited)

    def measure(self, selection: Selection, settings: TrialSettings) -> Measurement:
        number = len(self.told)
        responses = (((respond_with(0.5, text=settings.origin),),),)
        return Measurement(
            responses=responses,
            gains=self.gains[number],
            attained=self.attained[number],
            damage=self.costs[number],
            base_perplexity=10.0,
            slices=self.lost[number],
            answers=self.over[number],
            undesired=self.left[number],
        )

    def learn_slices(self, selection: Selection, names: Collection[str]) -> None:
        self.learned.append((len(selection), sorted(names)))

    def explain(
        self, granularity: Granularity, behaviour: int, undesired: Sequence[TokenSequence]
    ) -> tuple[Benefit, float]:
        self.explained.append((granularity, behaviour, undesired))
        return self.explanation(behaviour)

    def open(
        self,
        amounts: Sequence[int] | Amounts = (4,),
        rounds: int = 3,
        max_rank: int | None = None,
        on_trial: Callable[[Trial], None] | None = None,
    ) -> Search:
        """A search of neurons that is only rounds."""
        chosen = ListedAmounts(amounts) if isinstance(amounts, Sequence) else amounts
        space = Space({NEURON: (1, SIZE)}, layers=1, ablations=("zero",))
        plan = SearchPlan(rounds, {NEURON: chosen}, space, refinements=0, max_rank=max_rank)
        benefits = {NEURON: [MeanBenefit(benefit) for benefit in self.benefits]}
        return Search(self, plan, benefits, self.budget, 0, on_trial or self.told.append)

    def run(self, amounts: Sequence[int] | Amounts = (4,), rounds: int = 3) -> list[Trial]:
        search = self.open(amounts, rounds)
        search.go_through_rounds(NEURON)
        return list(search.trials)


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
    search = bench.open((4,), 3)
    search.go_through_rounds(NEURON)
    assert bench.explained == [(NEURON, 1, RUDE), (NEURON, 0, LOOP), (NEURON, 1, RUDE[:1])]
    # (6 + 12) / 2 and (3 + (30 + 30) / 4) / 1.5: later parts of a search go on from it.
    first, second = search.benefits[NEURON]
    torch.testing.assert_close(first.values["m0"], torch.full((SIZE,), 9.0))
    torch.testing.assert_close(second.values["m0"], torch.full((SIZE,), 12.0))


def test_a_behaviour_that_falls_short_is_emphasised_in_later_rounds() -> None:
    # One prunes the first neurons, the other the last ones; equally weighed, the first has more.
    first, last = torch.zeros(SIZE), torch.zeros(SIZE)
    first[:2], last[-2:] = torch.tensor([6.0, 4.0]), torch.tensor([3.0, 2.5])
    last[2:6] = 1.0
    bench = Bench(
        gains=((0.5, 0.5),) * 3,
        attained=[(2.0, 0.25), (1.0, 1.0), (1.0, 1.0)],
        left=[(LOOP, RUDE)] * 3,
        explanation=lambda number: ({"m0": (first, last)[number].clone()}, 1.0),
        benefits=[{"m0": first.clone()}, {"m0": last.clone()}],
    )
    trials = bench.run((2,), 3)
    assert [trial.settings.emphasis for trial in trials[:2]] == [(), (0.5, 2.0)]
    assert indices_of(trials[0]) == [0, 1]
    assert indices_of(trials[1]) == [SIZE - 2, SIZE - 1]
    assert [trial.attained for trial in trials[:2]] == [(2.0, 0.25), (1.0, 1.0)]


def test_selections_for_each_behaviour_alone_know_no_emphasis() -> None:
    bench = Bench(
        gains=((0.5, 0.5),) * 2,
        attained=[(1.0, 0.25), (1.0, 0.9)],
        benefits=[falling(), falling()],
        left=[(LOOP, RUDE)] * 2,
    )
    outcome = bench.open((2,), 2).run(lambda: True)
    assert outcome.chosen_trial is not None
    assert outcome.chosen_trial.settings.emphasis == (1.0, 2.0)
    assert len(outcome.alone) == 2


def test_where_nothing_undesired_is_left_of_any_behaviour_fewer_are_tried() -> None:
    # Of 8, and half of them, nothing is left; of a quarter something is.
    left = [((), ()), ((), ()), ((), RUDE), ((), ())]
    costs = [damage(10.0, kl) for kl in (0.08, 0.04, 0.02, 0.01)]
    gains = ((1.0, 1.0),) * 4
    bench = Bench(gains=gains, left=left, costs=costs, benefits=[falling(), falling()])
    assert amounts_of(bench.run(OpenAmounts(8, most=16), 4)) == [8, 4, 2]
    assert bench.explained == []


def test_fewer_that_are_nearer_to_a_limit_end_the_search() -> None:
    # Half as many do half the damage, but answers become longer than they may by half.
    bench = Bench(
        gains=((1.0,),) * 3,
        left=[((),)] * 3,
        costs=[damage(10.0, kl) for kl in (0.08, 0.04, 0.02)],
        over=({"longer:loops": 0.1}, {"longer:loops": 0.5}, {"longer:loops": 0.9}),
    )
    trials = bench.run(OpenAmounts(8, most=16), 5)
    assert amounts_of(trials) == [8, 4, 2]
    assert [round(trial.use, 6) for trial in trials] == [0.8, 0.5, 0.9]
    assert choose_trial(trials) == 1


def test_a_search_ends_where_nothing_is_left_and_no_fewer_can_be_tried() -> None:
    bench = Bench(gains=((1.0,),) * 4, left=[((),)] * 4)
    assert amounts_of(bench.run((2, 4, 8), 4)) == [4, 2]
    bench = Bench(gains=((1.0,),) * 4, left=[((),)] * 4)
    assert amounts_of(bench.run(OpenAmounts(2, most=16), 4)) == [2, 1]


def test_the_fewest_are_looked_for_between_too_many_and_too_few() -> None:
    # 32 harm a slice; of 16 answers go on too long, as they do without 23, and 27 will do.
    lost = SliceDamage(nats_rise=0.2, accuracy_fall=0.0)
    budget = replace(BUDGET, slices={"words": SliceDamage(nats_rise=0.1, accuracy_fall=1.0)})
    bench = Bench(
        gains=((1.0,),) * 5,
        left=[((),)] * 5,
        lost=({"words": lost}, *({"words": SliceDamage(nats_rise=0.0, accuracy_fall=0.0)},) * 4),
        over=({}, {"longer:loops": 1.5}, {"token_limit:loops": 1.2}, {}, {}),
        budget=budget,
    )
    trials = bench.run(OpenAmounts(32, most=40), 5)
    assert amounts_of(trials) == [32, 16, 23, 27, 25]
    assert [trial.within_budget for trial in trials] == [False, False, False, True, True]


def test_more_are_tried_where_the_first_are_too_few() -> None:
    bench = Bench(
        gains=((1.0,),) * 3, left=[((),)] * 3, over=({"longer:loops": 1.5}, {}, {}), costs=CHEAP
    )
    assert amounts_of(bench.run(OpenAmounts(8, most=16), 3)) == [8, 16, 11]
    bench = Bench(
        gains=((1.0,),) * 3, left=[((),)] * 3, over=({"longer:loops": 1.5}, {}, {}), costs=CHEAP
    )
    assert amounts_of(bench.run((2, 4, 8, 16), 3)) == [8, 16]


def test_fewer_than_what_was_refused_for_its_answers_are_not_tried() -> None:
    # Of 8 and of 4 nothing is left; without these 4 answers are too long.
    over = ({}, {"longer:loops": 1.5}, {}, {})
    bench = Bench(gains=((1.0,),) * 4, left=[((),)] * 4, over=over)
    first, second = bench.run(OpenAmounts(8, most=16), 4)
    assert (first.amount, second.amount) == (8, 4)
    assert (second.within_budget, second.bound_by, second.use) == (False, "longer:loops", 1.5)
    assert second.answers == {"longer:loops": 1.5}


def test_an_amount_whose_answers_are_refused_twice_falls() -> None:
    over = ({"shorter:loops": 4.0},) * 3
    bench = Bench(costs=[damage(10.0, 0.01)] * 3, over=over)
    assert amounts_of(bench.run(OpenAmounts(8, most=16), 3)) == [8, 8, 4]


def test_a_refused_trial_that_left_nothing_is_not_the_last() -> None:
    # 8 are refused, 4 leave something, so it grows as usual: 0.01 of 0.1 nats bear twice as many.
    left = [((),), (LOOP,), (LOOP,), (LOOP,)]
    costs = [damage(kl=0.2), damage(10.0, 0.01), damage(10.0, 0.01), damage()]
    bench = Bench(gains=((1.0,), (0.5,), (0.6,), (0.7,)), left=left, costs=costs)
    assert amounts_of(bench.run(OpenAmounts(8, most=16), 4))[:3] == [8, 4, 8]
    assert len(bench.explained) == 2


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

    with pytest.raises(InterruptedError):
        Bench().open((4,), 2, on_trial=stop).go_through_rounds(NEURON)


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
    tried = Bench(costs=[damage(kl=0.11)]).open()._try(settings)
    assert tried is not None
    assert tried.trial.settings == settings
    assert indices_of(tried.trial) == [0, 1, 2]
    assert not tried.trial.within_budget
    assert tried.undesired == (LOOP,)


# --- what is done with the best trial ---------------------------------------------------------


def conclude(bench: Bench, *tried: Tried, max_rank: int | None = None) -> SearchOutcome:
    search = bench.open(max_rank=max_rank)
    search.tried += tried
    return search.conclude()


def best_of(size: int) -> Tried:
    """A trial that gained, of so many neurons, and what it would have pruned without a limit."""
    trial = build_trial((0.3,), indices={"m0": list(range(size))})
    return Tried(trial, rank_components(falling(), NEURON, 6).top(3))


def test_the_chosen_trial_is_measured_without_the_rank_limit_by_its_own_ranking() -> None:
    bench = Bench(gains=((0.7,),), costs=(damage(perplexity=20.0),))
    worse = Tried(build_trial((0.1,)), rank_components(falling(), NEURON, 1).top(1))
    found = conclude(bench, best_of(2), worse, max_rank=2)
    assert found.chosen == 0
    assert found.unlimited is not None
    assert found.unlimited.max_rank == 2
    trial = found.unlimited.trial
    assert list_indices(trial.selection.to_selection()) == {"m0": [0, 1, 2]}
    assert trial.gains == (0.7,)
    assert not trial.within_budget
    assert trial.settings.origin == "round 1, any rank"
    assert bench.told == [trial]
    assert len(found.trials) == 2  # it is no candidate


def test_without_a_rank_limit_nothing_more_is_measured() -> None:
    bench = Bench()
    assert conclude(bench, best_of(2)).unlimited is None
    of_another_kind = replace(best_of(2), unlimited=None)
    assert conclude(bench, of_another_kind, max_rank=2).unlimited is None
    nothing = replace(best_of(2), unlimited=select_neurons({}))
    assert conclude(bench, nothing, max_rank=2).unlimited is None
    assert bench.told == []


def test_a_trial_keeps_as_much_of_the_whole_ranking_as_it_prunes() -> None:
    search = Bench(unlimited=rank_components(falling(), NEURON, 9)).open((4,), 1)
    search.go_through_rounds(NEURON)
    (tried,) = search.tried
    assert tried.unlimited is not None
    assert list_indices(tried.unlimited) == {"m0": [0, 1, 2, 3]}


def test_each_of_several_behaviours_has_a_selection_of_the_chosen_size_for_it_alone() -> None:
    rising = {"m0": torch.arange(1, SIZE + 1).float()}
    found = conclude(Bench(benefits=[falling(), rising]), best_of(2))
    assert [list_indices(own.to_selection()) for own in found.alone] == [
        {"m0": [0, 1]},
        {"m0": [SIZE - 2, SIZE - 1]},
    ]
    assert conclude(Bench(), best_of(2)).alone == ()


def test_nothing_is_done_where_no_trial_is_chosen() -> None:
    bench = Bench(benefits=[falling(), falling()])
    found = conclude(bench, replace(best_of(2), trial=build_trial((-0.1,))), max_rank=2)
    assert found == SearchOutcome(trials=found.trials, chosen=None)
    assert bench.told == bench.ranked == []


def test_a_whole_search_is_rounds_and_then_a_refinement() -> None:
    search = Bench().open((4,), 2)
    search.plan = replace(search.plan, refinements=3)
    found = search.run(lambda: False)
    assert [trial.settings.origin for trial in found.trials] == [
        "round 1",
        "round 2",
        "refinement 1",
        "refinement 2",
        "refinement 3",
    ]
    assert found.chosen is not None
    assert len(Bench().open((4,), 2).run(lambda: True).trials) == 2


# --- limits -----------------------------------------------------------------------------------


def test_a_search_allows_itself_a_share_of_every_limit() -> None:
    slices = [build_slice("words", nats_rise=0.2, accuracy_fall=0.1), build_slice("lists")]
    budget = build_search_budget(Budget(perplexity_increase=0.05, kl_mean=0.01), slices)
    assert budget.perplexity_increase == pytest.approx(BUDGET_SHARE * 0.05)
    assert budget.kl_mean == pytest.approx(BUDGET_SHARE * 0.01)
    assert list(budget.slices) == ["words", "lists"]
    words = budget.slices["words"]
    assert words.nats_rise == pytest.approx(SEARCH_SHARE * 0.2)
    assert words.accuracy_fall == pytest.approx(SEARCH_SHARE * 0.1)
    assert words.nats_rise + words.nats_margin == pytest.approx(0.2)  # the verdict's limit


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


# --- prices and amounts from round to round ---------------------------------------------------


def test_prices_follow_each_slice_from_round_to_round() -> None:
    rounds = [
        {"words": lost(0.1), "lists": lost(0.05)},  # 2 and ½ of their limits
        {"words": lost(0.04), "lists": lost(0.15)},  # 0.8 and 1.5
        {"words": lost(), "lists": lost()},
    ]
    bench = Bench(lost=rounds, budget=GUARDED)
    trials = bench.run((4,), 3)
    assert [trial.settings.prices for trial in trials] == [
        {},
        {"words": pytest.approx(2.0)},
        {"words": pytest.approx(1.6), "lists": pytest.approx(1.5)},
    ]
    assert bench.learned == [(4, ["words"]), (4, ["lists"])]  # what lost too much, each time


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


def test_rounds_over_budget_do_not_show_that_a_search_is_flat() -> None:
    over = {"words": lost(0.1), "lists": lost()}
    within = {"words": lost(0.04), "lists": lost()}
    gains = [(0.4,), (0.5,), (0.5,), (0.5,), (0.1,), (0.1,), (0.1,)]
    lost_by_round = [within, over, over, within, within, within, within]
    bench = Bench(gains=gains, lost=lost_by_round, budget=GUARDED)
    # Round 4 keeps the gain of the refused ones; two more within budget without a rise end it.
    assert len(bench.run(OpenAmounts(4, 40), 9)) == 6


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


def test_a_search_without_a_gain_goes_on_while_the_budget_bears_more() -> None:
    gains, cheap = [(0.0,), (0.0,), (0.0,), (0.5,)], [damage(10.0, 0.001)] * 4
    assert amounts_of(Bench(gains=gains, costs=cheap).run(OpenAmounts(4, 40), 4)) == [4, 8, 16, 32]
    # It ends as flat where there is nothing more to choose from.
    assert len(Bench(gains=gains, costs=cheap).run(OpenAmounts(4, 4), 4)) == 3


def test_a_gain_over_budget_is_no_rise() -> None:
    over = damage(kl=0.2)
    gains = [(0.5,), (0.8,), (0.8,), (0.5,), (0.5,), (0.9,)]
    costs = [damage(), over, over, damage(), damage(), damage()]
    assert len(Bench(gains=gains, costs=costs).run(OpenAmounts(8, 40), 6)) == 5


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
