"""The search over amounts: best within budget, fewest of equals, nothing rather than harm."""

from __future__ import annotations

import math

import pytest
import torch

from workers.correction.results import Response, SearchOutcome, Trial
from workers.correction.search import Budget, Measurement, search_amounts
from workers.domain import Granularity, Selection
from workers.pruning.ranking import Ranking
from workers.pruning.selection import list_indices
from workers.validation.text_damage import TextDamage

RANKED = Ranking(
    Granularity.NEURON,
    ("layer.0", "layer.1", "layer.2"),
    torch.arange(40) % 3,
    torch.arange(40),
)
BASE = (0.2, 0.4)
BUDGET = Budget(perplexity_increase=0.05, kl_mean=0.1)


def damage(perplexity: float = 10.0, kl: float = 0.0) -> TextDamage:
    return TextDamage(perplexity=perplexity, kl_mean=kl, kl_p95=kl, tokens=100)


def search(effects: dict[int, tuple[tuple[float, ...], TextDamage]], **changes) -> SearchOutcome:
    def measure(selection: Selection) -> Measurement:
        assert list_indices(selection) == list_indices(RANKED.top(len(selection)))
        metrics, cost = effects[len(selection)]
        responses = tuple(Response(response="", metric=metric) for metric in metrics)
        return Measurement(responses=responses, damage=cost, base_perplexity=10.0)

    settings = {"ranked": RANKED, "amounts": effects, "base_metrics": BASE, "budget": BUDGET}
    return search_amounts(measure=measure, **(settings | changes))


def chosen_amount(outcome: SearchOutcome) -> int | None:
    if outcome.chosen is None:
        assert outcome.selection is None
        return None
    amount = outcome.trials[outcome.chosen].amount
    assert outcome.selection is not None
    assert list_indices(outcome.selection) == list_indices(RANKED.top(amount))
    return amount


def test_the_largest_mean_metric_wins() -> None:
    outcome = search(
        {
            2: ((0.5, 0.5), damage()),
            4: ((0.9, 0.7), damage()),
            8: ((1.0, 0.2), damage()),
        }
    )
    assert chosen_amount(outcome) == 4
    assert outcome.trials[1].mean_metric == pytest.approx(0.8)


def test_of_equals_the_fewest_components_win() -> None:
    outcome = search(
        {2: ((0.4, 0.4), damage()), 4: ((0.6, 0.8), damage()), 8: ((0.8, 0.6), damage())}
    )
    assert chosen_amount(outcome) == 4


@pytest.mark.parametrize("metrics", [BASE, (0.3, 0.3), (0.1, 0.1)])
def test_nothing_is_chosen_when_nothing_improves(metrics: tuple[float, ...]) -> None:
    outcome = search({2: (metrics, damage()), 4: (metrics, damage())})
    assert chosen_amount(outcome) is None
    assert len(outcome.trials) == 2


@pytest.mark.parametrize(
    "cost",
    [damage(perplexity=10.6), damage(kl=0.11), damage(perplexity=math.nan), damage(kl=math.nan)],
    ids=["perplexity", "kl", "perplexity nan", "kl nan"],
)
def test_over_budget_is_never_chosen(cost: TextDamage) -> None:
    outcome = search({2: ((0.5, 0.5), damage()), 4: ((1.0, 1.0), cost)})
    assert chosen_amount(outcome) == 2
    assert [trial.within_budget for trial in outcome.trials] == [True, False]
    assert chosen_amount(search({4: ((1.0, 1.0), cost)})) is None


def test_a_fall_in_perplexity_is_within_budget() -> None:
    assert chosen_amount(search({2: ((1.0, 1.0), damage(perplexity=8.0))})) == 2


def test_amounts_are_tried_once_and_in_order() -> None:
    seen: list[int] = []
    effects = {2: ((0.5, 0.5), damage()), 4: ((0.5, 0.5), damage())}
    search(
        effects,
        amounts=[4, 2, 4],
        on_trial=lambda trial: seen.append(trial.amount),
    )
    assert seen == [2, 4]


def test_amounts_beyond_the_ranking_are_skipped() -> None:
    effects = {2: ((0.5, 0.5), damage()), 40: ((0.6, 0.6), damage())}
    outcome = search(effects, amounts=[2, 40, 41, 500])
    assert [trial.amount for trial in outcome.trials] == [2, 40]
    outcome = search(effects, ranked=RANKED.keep([0]))
    assert outcome.trials == ()
    assert chosen_amount(outcome) is None


def test_a_callback_that_raises_stops_the_search() -> None:
    def stop(trial: Trial) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        search({2: ((0.5, 0.5), damage())}, on_trial=stop)


def test_a_trial_holds_what_was_measured() -> None:
    (trial,) = search({2: ((0.5, 0.7), damage(10.2, 0.03))}).trials
    assert list_indices(trial.selection.to_selection()) == {"layer.0": [0], "layer.1": [1]}
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
    outcome = search({2: ((0.5, 0.7), damage(10.2, 0.03)), 4: ((0.1, 0.1), damage())})
    data = outcome.to_bytes()
    parsed = SearchOutcome.model_validate_json(data)
    assert parsed == outcome
    assert parsed.to_bytes() == data


def test_documents_refuse_unknown_fields_and_changes() -> None:
    with pytest.raises(ValueError, match="extra"):
        Response.model_validate({"response": "x", "metric": 0.5, "extra": 1})
    with pytest.raises(ValueError, match="frozen"):
        Response(response="x", metric=0.5).metric = 1.0
