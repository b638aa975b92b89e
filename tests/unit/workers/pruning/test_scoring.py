"""Scores against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from workers.domain import Granularity, Relevance
from workers.pruning.ranking import rank_components
from workers.pruning.scoring import (
    COST_FLOOR,
    DIVERGENCE_FLOOR,
    LEAST_DIVERGENCE_SHARE,
    Score,
    compute_scores,
    predict_damage,
)


def relevance(mean: dict[str, list[float]], absolute: dict[str, list[float]]) -> Relevance:
    return Relevance(
        mean={name: torch.tensor(values) for name, values in mean.items()},
        mean_absolute={name: torch.tensor(values) for name, values in absolute.items()},
        tokens=1,
        samples=1,
        mean_square={name: torch.tensor(values).square() for name, values in absolute.items()},
    )


def benefit(**means: list[float]) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(values) for name, values in means.items()}


GENERAL = relevance(
    {"a": [1.0, -3.0], "b": [0.5, -2.0, 0.0]}, {"a": [1.0, 4.0], "b": [2.0, 3.0, 0.0]}
)
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
    nothing = relevance({"a": [0.0] * 3, "b": [0.0] * 3}, {"a": [0.0] * 3, "b": [0.0] * 3})
    undesired = benefit(a=[7.0, 0.0, -1.0], b=[6.0, 5e-30, 9e37])
    scores = compute_scores(nothing, undesired, score)
    assert all(values.isfinite().all() for values in scores.values())
    ranked = rank_components(scores, Granularity.NEURON, 6)
    best = [("b", 2), ("a", 0), ("b", 0), ("b", 1)]
    owners = [ranked.modules[owner] for owner in ranked.owners.tolist()]
    assert list(zip(owners, ranked.indices.tolist(), strict=True)) == best


@pytest.mark.parametrize("cost", [1e-45, 1e-38, 1e-20, 1.0, 1e18])
@pytest.mark.parametrize("score", [Score.BENEFIT_COST, Score.BENEFIT_DAMAGE])
def test_scores_are_finite_and_in_order_at_any_scale(score: Score, cost: float) -> None:
    general = relevance({"a": [0.0] * 3}, {"a": [0.0, cost, cost]})
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
def test_different_modules_are_refused(score: Score) -> None:
    with pytest.raises(ValueError, match="different modules"):
        compute_scores(GENERAL, benefit(a=[1.0, 2.0]), score)


@pytest.mark.parametrize("score", list(Score))
def test_scoring_leaves_the_relevance_alone(score: Score) -> None:
    compute_scores(GENERAL, UNDESIRED, score)
    assert UNDESIRED["a"].tolist() == [6.0, -8.0]
    assert GENERAL.mean_absolute["b"].tolist() == [2.0, 3.0, 0.0]


def test_benefit_damage_by_hand() -> None:
    general = relevance({"a": [0.5, -9.0, 0.0]}, {"a": [1.0, 2.0, 0.0]})
    assert (DIVERGENCE_FLOOR, LEAST_DIVERGENCE_SHARE) == (0.05, 0.3)
    # Half the squares are 0.5, 2 and 0; the second helps the text, and costs 0.3 of its 2.
    damage = torch.tensor([1.0, 0.6, 0.0], dtype=torch.float64)
    torch.testing.assert_close(predict_damage(general, "a"), damage)
    floor = 0.05 * 2.5 / 3
    scores = compute_scores(general, benefit(a=[3.0, 3.0, -1.0]), Score.BENEFIT_DAMAGE)["a"]
    expected = torch.tensor([3 / (1 + floor), 3 / (0.6 + floor), 0.0], dtype=torch.float64)
    torch.testing.assert_close(scores, expected)


def test_a_removal_that_helps_the_text_costs_less() -> None:
    general = relevance({"a": [0.2, 0.0, -0.2]}, {"a": [1.0, 1.0, 1.0]})
    hurts, neither, helps = compute_scores(general, benefit(a=[1.0] * 3), Score.BENEFIT_DAMAGE)["a"]
    assert hurts < neither < helps


def test_lazy_scores_are_computed_anew_and_leave_what_they_read_alone() -> None:
    scores = compute_scores(GENERAL, UNDESIRED, Score.BENEFIT_DAMAGE)
    assert len(scores) == 2
    assert torch.equal(scores["a"], scores["a"])
    assert scores["a"] is not scores["a"]
    assert GENERAL.mean_square["a"].tolist() == [1.0, 16.0]
