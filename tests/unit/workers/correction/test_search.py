"""The search in rounds: what each ranks by, how amounts move, best within budget or nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch

from workers.correction.results import Response, SearchOutcome, Trial
from workers.correction.search import Budget, Measurement, SearchSteps, search_rounds
from workers.domain import Granularity, Selection, TokenSequence
from workers.pruning.ranking import rank_components
from workers.pruning.selection import list_indices
from workers.validation.text_damage import TextDamage

NEURONS = 40
BENEFIT = {"layer.0": torch.arange(NEURONS, 0, -1).float()}
BASE = (0.2, 0.4)
BUDGET = Budget(perplexity_increase=0.05, kl_mean=0.1)
LOOP = (TokenSequence((1,), (2, 2)),)


def damage(perplexity: float = 10.4, kl: float = 0.0) -> TextDamage:
    """By default most of the budget, so that the amount stays."""
    return TextDamage(perplexity=perplexity, kl_mean=kl, kl_p95=kl, tokens=100)


Effect = tuple[tuple[float, ...], TextDamage]


def search(
    effects: Sequence[Effect],
    amounts: Sequence[int] = (4,),
    *,
    explained: Sequence[Mapping[str, torch.Tensor]] = (),
    undesired: tuple[TokenSequence, ...] = LOOP,
    benefit: Mapping[str, torch.Tensor] = BENEFIT,
    tell: Callable[[Trial], None] = lambda trial: None,
) -> SearchOutcome:
    """A search whose rounds have the given effects, and explanations of what is left."""
    measured = iter(effects)
    explanations = iter(explained)

    def measure(selection: Selection) -> Measurement:
        metrics, cost = next(measured)
        responses = tuple(Response(response="", metric=metric) for metric in metrics)
        return Measurement(responses, cost, 10.0, undesired)

    steps = SearchSteps(
        rank=lambda means: rank_components(means, Granularity.NEURON, max(amounts)),
        measure=measure,
        explain=lambda _: next(explanations, BENEFIT),
        tell=tell,
    )
    return search_rounds(benefit, amounts, len(effects), BASE, steps, BUDGET)


def amounts_of(outcome: SearchOutcome) -> list[int]:
    return [trial.amount for trial in outcome.trials]


def chosen_of(outcome: SearchOutcome) -> list[int]:
    """Indices of the chosen components."""
    assert outcome.selection is not None
    return list_indices(outcome.selection)["layer.0"]


def test_the_largest_mean_metric_wins() -> None:
    rounds = [((0.5, 0.5), damage()), ((0.9, 0.7), damage()), ((1.0, 0.2), damage())]
    outcome = search(rounds)
    assert outcome.chosen == 1
    assert outcome.trials[1].mean_metric == pytest.approx(0.8)


def test_of_equals_the_fewest_components_win() -> None:
    over = damage(kl=0.2)
    rounds = [((0.7, 0.7), over), ((0.6, 0.8), damage(9.0)), ((0.8, 0.6), damage())]
    outcome = search(rounds, (2, 4, 8, 16))
    assert amounts_of(outcome) == [8, 4, 8]
    assert outcome.chosen == 1


@pytest.mark.parametrize("metrics", [BASE, (0.3, 0.3), (0.1, 0.1)])
def test_nothing_is_chosen_when_nothing_improves(metrics: tuple[float, ...]) -> None:
    outcome = search([(metrics, damage()), (metrics, damage())])
    assert outcome.chosen is None
    assert outcome.selection is None
    assert len(outcome.trials) == 2


@pytest.mark.parametrize(
    "cost",
    [damage(perplexity=10.6), damage(kl=0.11), damage(perplexity=math.nan), damage(kl=math.nan)],
    ids=["perplexity", "kl", "perplexity nan", "kl nan"],
)
def test_over_budget_is_never_chosen(cost: TextDamage) -> None:
    outcome = search([((0.5, 0.5), damage()), ((1.0, 1.0), cost)])
    assert outcome.chosen == 0
    assert [trial.within_budget for trial in outcome.trials] == [True, False]
    assert search([((1.0, 1.0), cost)]).chosen is None


def test_the_amount_falls_over_budget_and_rises_where_there_is_room() -> None:
    metrics, over, room = (0.5, 0.5), damage(kl=0.2), damage(9.0, 0.01)
    rounds = [(metrics, room), (metrics, over), (metrics, damage()), (metrics, damage())]
    assert amounts_of(search(rounds, (2, 4, 8))) == [4, 8, 4, 4]
    assert amounts_of(search([(metrics, room)] * 3, (2, 4))) == [4, 4, 4]
    assert amounts_of(search([(metrics, over)] * 4, (2, 4, 8))) == [4, 2, 2, 2]


def test_each_round_ranks_by_everything_explained_so_far() -> None:
    seen: list[list[int]] = []
    # Round 1 takes the first two; the next loop is held back by neuron 0 and served by 20.
    later = torch.zeros(NEURONS)
    later[0], later[20] = -100.0, 100.0
    search(
        [((0.5, 0.5), damage())] * 2,
        (2,),
        explained=[{"layer.0": later}],
        tell=lambda trial: seen.append(list_indices(trial.selection.to_selection())["layer.0"]),
    )
    assert seen == [[0, 1], [1, 20]]
    assert BENEFIT["layer.0"][0] == NEURONS  # averaged aside, not in place


def test_it_ends_when_nothing_undesired_is_left() -> None:
    rounds = [((0.5, 0.5), damage()), ((0.9, 0.9), damage())]
    outcome = search(rounds, undesired=())
    assert outcome.chosen == 0
    assert len(outcome.trials) == 1


def test_the_last_round_s_responses_are_not_explained() -> None:
    def explain(_: Sequence[TokenSequence]) -> Mapping[str, torch.Tensor]:
        raise AssertionError("nobody ranks by this")

    steps = SearchSteps(
        rank=lambda means: rank_components(means, Granularity.NEURON, 4),
        measure=lambda _: Measurement((Response(response="", metric=0.9),), damage(), 10.0, LOOP),
        explain=explain,
        tell=lambda _: None,
    )
    assert search_rounds(BENEFIT, (4,), 1, BASE, steps, BUDGET).chosen == 0


def test_a_ranking_shorter_than_the_amount_is_taken_whole() -> None:
    few = {"layer.0": torch.tensor([3.0, -1.0, 2.0])}
    outcome = search([((0.5, 0.5), damage())], (8,), benefit=few)
    assert chosen_of(outcome) == [0, 2]


def test_an_empty_ranking_is_no_trial() -> None:
    nothing = {"layer.0": torch.tensor([-3.0, 0.0])}
    outcome = search([((0.5, 0.5), damage())] * 2, benefit=nothing)
    assert outcome.trials == ()
    assert outcome.chosen is None


def test_a_callback_that_raises_stops_the_search() -> None:
    def stop(trial: Trial) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        search([((0.5, 0.5), damage())], tell=stop)


def test_a_trial_holds_what_was_measured() -> None:
    (trial,) = search([((0.5, 0.7), damage(10.2, 0.03))], (2,)).trials
    assert list_indices(trial.selection.to_selection()) == {"layer.0": [0, 1]}
    assert [response.metric for response in trial.responses] == [0.5, 0.7]
    assert (trial.perplexity, trial.base_perplexity, trial.kl_mean) == (10.2, 10.0, 0.03)


@pytest.mark.parametrize(
    ("perplexity", "kl", "allowed"),
    [(10.4, 0.1, True), (10.4, 0.1001, False), (10.51, 0.0, False), (1.0, 0.0, True)],
)
def test_a_budget_needs_both_limits(perplexity: float, kl: float, allowed: bool) -> None:
    assert BUDGET.allows(10.0, damage(perplexity, kl)) is allowed


def test_a_share_of_a_budget_shrinks_both_limits() -> None:
    assert BUDGET.scaled(0.5) == Budget(perplexity_increase=0.025, kl_mean=0.05)


def test_outcomes_survive_json_with_equal_bytes() -> None:
    outcome = search([((0.5, 0.7), damage(10.2, 0.03)), ((0.1, 0.1), damage())])
    data = outcome.to_bytes()
    parsed = SearchOutcome.model_validate_json(data)
    assert parsed == outcome
    assert parsed.to_bytes() == data


def test_documents_refuse_unknown_fields_and_changes() -> None:
    with pytest.raises(ValueError, match="extra"):
        Response.model_validate({"response": "x", "metric": 0.5, "extra": 1})
    with pytest.raises(ValueError, match="frozen"):
        Response(response="x", metric=0.5).metric = 1.0
