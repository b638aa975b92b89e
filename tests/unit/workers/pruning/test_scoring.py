"""Scores against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from excise.names import Granularity, Score
from workers.domain import GeneralCost, Relevance
from workers.pruning.damage import LEAST_DIVERGENCE_SHARE
from workers.pruning.ranking import rank_components
from workers.pruning.scoring import (
    COST_FLOOR,
    DIVERGENCE_FLOOR,
    CostTotal,
    combine_benefits,
    compute_floor,
    compute_scores,
    sum_costs,
    sum_positive,
)


def relevance(mean: dict[str, list[float]], absolute: dict[str, list[float]]) -> Relevance:
    return Relevance(
        mean={name: torch.tensor(values) for name, values in mean.items()},
        mean_absolute={name: torch.tensor(values) for name, values in absolute.items()},
        tokens=1,
        samples=1,
    )


def cost(mean: dict[str, list[float]], absolute: dict[str, list[float]]) -> GeneralCost:
    """First order and the root of the Fisher information's diagonal."""
    return GeneralCost(
        first_order={name: torch.tensor(values) for name, values in mean.items()},
        fisher={name: torch.tensor(values).square() for name, values in absolute.items()},
        tokens=1,
        samples=1,
    )


def general_for(
    score: Score, mean: dict[str, list[float]], absolute: dict[str, list[float]]
) -> Relevance | GeneralCost:
    """What the score takes, from the same numbers."""
    return (cost if score is Score.BENEFIT_DAMAGE else relevance)(mean, absolute)


def benefit(**means: list[float]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(values) for name, values in means.items()}


MEAN = {"a": [1.0, -3.0], "b": [0.5, -2.0, 0.0]}
ABSOLUTE = {"a": [1.0, 4.0], "b": [2.0, 3.0, 0.0]}
GENERAL, COST = relevance(MEAN, ABSOLUTE), cost(MEAN, ABSOLUTE)
UNDESIRED = benefit(a=[6.0, -8.0], b=[0.0, 1.0, 3.0])


def test_benefit_cost_by_hand() -> None:
    # The mean cost is (1 + 4 + 2 + 3 + 0) / 5 = 2, so the floor is 0.2.
    assert COST_FLOOR == 0.1
    scores = compute_scores(GENERAL, UNDESIRED, Score.BENEFIT_COST)
    assert list(scores) == ["a", "b"]
    torch.testing.assert_close(scores["a"], torch.tensor([6 / 1.2, 0.0], dtype=torch.float64))
    torch.testing.assert_close(
        scores["b"], torch.tensor([0.0, 1 / 3.2, 3 / 0.2], dtype=torch.float64)
    )


def test_signed_difference_by_hand() -> None:
    scores = compute_scores(GENERAL, UNDESIRED, Score.SIGNED_DIFFERENCE)
    torch.testing.assert_close(scores["a"], torch.tensor([5.0, -5.0], dtype=torch.float64))
    torch.testing.assert_close(scores["b"], torch.tensor([-0.5, 3.0, 3.0], dtype=torch.float64))


@pytest.mark.parametrize("score", [Score.BENEFIT_COST, Score.BENEFIT_DAMAGE])
def test_without_any_cost_the_benefit_decides(score: Score) -> None:
    none = {"a": [0.0] * 3, "b": [0.0] * 3}
    nothing = general_for(score, none, none)
    undesired = benefit(a=[7.0, 0.0, -1.0], b=[6.0, 5e-30, 9e37])
    scores = compute_scores(nothing, undesired, score)
    assert all(values.isfinite().all() for values in scores.values())
    ranked = rank_components(scores, Granularity.NEURON, 6)
    best = [("b", 2), ("a", 0), ("b", 0), ("b", 1)]
    owners = [ranked.modules[owner] for owner in ranked.owners.tolist()]
    assert list(zip(owners, ranked.indices.tolist(), strict=True)) == best


@pytest.mark.parametrize("scale", [1e-45, 1e-38, 1e-20, 1.0, 1e18])
@pytest.mark.parametrize("score", [Score.BENEFIT_COST, Score.BENEFIT_DAMAGE])
def test_scores_are_finite_and_in_order_at_any_scale(score: Score, scale: float) -> None:
    general = general_for(score, {"a": [0.0] * 3}, {"a": [0.0, scale, scale]})
    undesired = benefit(a=[3e38, 2e38, 1e38])
    scores = compute_scores(general, undesired, score)
    assert scores["a"].isfinite().all()
    assert rank_components(scores, Granularity.NEURON, 3).indices.tolist() == [0, 1, 2]


def test_a_difference_of_extremes_is_finite() -> None:
    general = relevance({"a": [-3e38, 0.0]}, {"a": [3e38, 0.0]})
    undesired = benefit(a=[3e38, 3e38])
    scores = compute_scores(general, undesired, Score.SIGNED_DIFFERENCE)
    assert rank_components(scores, Granularity.NEURON, 2).indices.tolist() == [0, 1]


def test_the_score_grows_with_benefit_and_falls_with_cost() -> None:
    general = relevance({"a": [0.0] * 3}, {"a": [1.0, 2.0, 2.0]})
    undesired = benefit(a=[1.0, 1.0, 2.0])
    low_cost, plain, high_benefit = compute_scores(general, undesired, Score.BENEFIT_COST)["a"]
    assert low_cost > plain
    assert high_benefit > plain


def test_scaling_the_model_s_relevance_keeps_the_ranking() -> None:
    scores = compute_scores(GENERAL, UNDESIRED, Score.BENEFIT_COST)["b"]
    tripled = relevance(
        {name: (3 * values).tolist() for name, values in GENERAL.mean.items()},
        {name: (3 * values).tolist() for name, values in GENERAL.mean_absolute.items()},
    )
    torch.testing.assert_close(
        compute_scores(tripled, UNDESIRED, Score.BENEFIT_COST)["b"], scores / 3
    )


@pytest.mark.parametrize("score", list(Score))
def test_a_module_without_general_relevance_is_refused(score: Score) -> None:
    with pytest.raises(ValueError, match="does not cover every module"):
        compute_scores(general_for(score, MEAN, ABSOLUTE), UNDESIRED | benefit(c=[1.0]), score)


@pytest.mark.parametrize("score", list(Score))
def test_a_score_takes_the_general_side_it_is_made_for(score: Score) -> None:
    other = GENERAL if score is Score.BENEFIT_DAMAGE else COST
    with pytest.raises(ValueError, match=f"{score.value} cannot be computed from a"):
        compute_scores(other, UNDESIRED, score)


@pytest.mark.parametrize("score", list(Score))
def test_a_subset_of_modules_gets_the_scores_it_has_among_all(score: Score) -> None:
    # The floor is that of the whole model, whatever part of it components may come from.
    general = general_for(score, MEAN, ABSOLUTE)
    everything = compute_scores(general, UNDESIRED, score)
    for name in ("a", "b"):
        part = compute_scores(general, {name: UNDESIRED[name]}, score)
        assert list(part) == [name]
        assert torch.equal(part[name], everything[name])


@pytest.mark.parametrize("score", list(Score))
def test_scoring_leaves_the_relevance_alone(score: Score) -> None:
    general = general_for(score, MEAN, ABSOLUTE)
    dict(compute_scores(general, UNDESIRED, score))
    assert UNDESIRED["a"].tolist() == [6.0, -8.0]
    if isinstance(general, GeneralCost):
        assert general.fisher["b"].tolist() == [4.0, 9.0, 0.0]
        assert general.first_order["b"].tolist() == MEAN["b"]
    else:
        assert general.mean_absolute["b"].tolist() == [2.0, 3.0, 0.0]


def test_benefit_damage_by_hand() -> None:
    general = cost({"a": [0.5, -9.0, 0.0]}, {"a": [1.0, 2.0, 0.0]})
    assert (DIVERGENCE_FLOOR, LEAST_DIVERGENCE_SHARE) == (0.05, 0.3)
    # Half the squares are 0.5, 2 and 0; the second helps the text, and costs 0.3 of its 2.
    floor = 0.05 * 2.5 / 3
    assert compute_floor(general, Score.BENEFIT_DAMAGE) == pytest.approx(floor)
    scores = compute_scores(general, benefit(a=[3.0, 3.0, -1.0]), Score.BENEFIT_DAMAGE)["a"]
    expected = torch.tensor([3 / (1 + floor), 3 / (0.6 + floor), 0.0], dtype=torch.float64)
    torch.testing.assert_close(scores, expected)


def test_a_removal_that_helps_the_text_costs_less() -> None:
    general = cost({"a": [0.2, 0.0, -0.2]}, {"a": [1.0, 1.0, 1.0]})
    hurts, neither, helps = compute_scores(general, benefit(a=[1.0] * 3), Score.BENEFIT_DAMAGE)["a"]
    assert hurts < neither < helps


def test_scores_leave_what_they_read_alone() -> None:
    before = {name: values.clone() for name, values in UNDESIRED.items()}
    first, second = (compute_scores(COST, UNDESIRED, Score.BENEFIT_DAMAGE) for _ in range(2))
    assert list(first) == list(UNDESIRED)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(UNDESIRED[name], before[name]) for name in before)
    assert COST.fisher["a"].tolist() == [1.0, 16.0]


@pytest.mark.parametrize("score", [Score.BENEFIT_DAMAGE, Score.BENEFIT_COST])
def test_totals_of_two_sets_add_up_to_the_floor_of_both(score: Score) -> None:
    parts = [
        sum_costs(general_for(score, {name: MEAN[name]}, {name: ABSOLUTE[name]})) for name in "ab"
    ]
    whole = compute_floor(general_for(score, MEAN, ABSOLUTE), score)
    assert (CostTotal() + parts[0] + parts[1]).find_floor(score) == pytest.approx(whole)
    assert parts[0].find_floor(Score.SIGNED_DIFFERENCE) == 0.0
    assert CostTotal().find_floor(score) == 0.0


def test_behaviours_of_some_components_are_weighed_by_the_scales_of_all() -> None:
    first, second = benefit(a=[3.0, 1.0]), benefit(a=[10.0, -5.0])
    combined = combine_benefits([first, second], (6.0, 20.0))["a"]
    torch.testing.assert_close(combined, torch.tensor([1.0, 1 / 6 - 0.25]))
    alone = combine_benefits([first], (6.0,))["a"]
    assert torch.equal(alone, first["a"])
    assert sum_positive(benefit(a=[3.0, -1.0], b=[2.0])) == 5.0


def test_the_cost_weight_is_the_exponent_of_what_the_benefit_is_divided_by() -> None:
    mean, absolute = {"a": [0.5, -9.0, 0.0]}, {"a": [1.0, 2.0, 0.0]}
    own = benefit(a=[3.0, 3.0, 3.0])
    floor = 0.05 * 2.5 / 3
    costs = torch.tensor([1.0 + floor, 0.6 + floor, floor], dtype=torch.float64)
    for weight in (0.5, 1.0, 1.5):
        scores = compute_scores(cost(mean, absolute), own, Score.BENEFIT_DAMAGE, weight)["a"]
        torch.testing.assert_close(scores, 3 / costs**weight)
    costs = torch.tensor([1.1, 2.1, 0.1], dtype=torch.float64)
    for weight in (0.5, 1.5):
        scores = compute_scores(relevance(mean, absolute), own, Score.BENEFIT_COST, weight)["a"]
        torch.testing.assert_close(scores, 3 / costs**weight)


def test_a_smaller_cost_weight_prefers_what_brings_more() -> None:
    general = relevance({"a": [0.0, 0.0]}, {"a": [1.0, 10.0]})
    own = benefit(a=[1.0, 4.0])

    def first(weight: float) -> int:
        return int(compute_scores(general, own, Score.BENEFIT_COST, weight)["a"].argmax())

    assert (first(0.2), first(1.0)) == (1, 0)


def test_the_signed_difference_has_no_cost_to_weigh() -> None:
    plain = compute_scores(GENERAL, UNDESIRED, Score.SIGNED_DIFFERENCE)["a"]
    assert torch.equal(compute_scores(GENERAL, UNDESIRED, Score.SIGNED_DIFFERENCE, 1.5)["a"], plain)


# --- several behaviours --------------------------------------------------------------------


def test_behaviours_weigh_the_same_however_loud_they_are() -> None:
    # Positive parts: 2 + 3 + 5 = 10 and 100 + 300 = 400.
    first = benefit(a=[2.0, -4.0], b=[3.0, 5.0])
    second = benefit(a=[100.0, 300.0], b=[-80.0, 0.0])
    combined = combine_benefits([first, second])
    torch.testing.assert_close(combined["a"], torch.tensor([0.2 + 0.25, -0.4 + 0.75]))
    torch.testing.assert_close(combined["b"], torch.tensor([0.3 - 0.2, 0.5]))
    louder = {name: 50 * values for name, values in second.items()}
    for name, values in combine_benefits([first, louder]).items():
        torch.testing.assert_close(values, combined[name])
    # What was combined is left as it was.
    assert first["a"].tolist() == [2.0, -4.0]
    assert second["b"].tolist() == [-80.0, 0.0]


def test_three_behaviours_are_added_up() -> None:
    parts = [benefit(a=[1.0, 1.0]), benefit(a=[0.0, 2.0]), benefit(a=[4.0, 0.0])]
    torch.testing.assert_close(combine_benefits(parts)["a"], torch.tensor([1.5, 1.5]))


def test_a_behaviour_counts_as_it_is_emphasised() -> None:
    first, second = benefit(a=[2.0, 8.0]), benefit(a=[30.0, 10.0])
    combined = combine_benefits([first, second], None, (3.0, 1.0))["a"]
    torch.testing.assert_close(combined, torch.tensor([3 * 0.2 + 0.75, 3 * 0.8 + 0.25]))
    scaled = combine_benefits([first, second], (20.0, 80.0), (3.0, 1.0))["a"]
    torch.testing.assert_close(scaled, torch.tensor([3 * 0.1 + 0.375, 3 * 0.4 + 0.125]))


def test_a_behaviour_that_nothing_serves_changes_nothing() -> None:
    own = benefit(a=[1.0, 3.0])
    combined = combine_benefits([own, benefit(a=[-5.0, 0.0])])
    torch.testing.assert_close(combined["a"], torch.tensor([0.25, 0.75]))
    combined = combine_benefits([benefit(a=[-5.0, 0.0]), own])
    torch.testing.assert_close(combined["a"], torch.tensor([0.25, 0.75]))


def test_one_behaviour_is_taken_as_it_is() -> None:
    own = benefit(a=[2.0, -4.0], b=[3.0])
    combined = combine_benefits([own])
    assert list(combined) == ["a", "b"]
    assert all(torch.equal(combined[name], own[name]) for name in own)
