"""Components that are weighed beside those chosen before them, by numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import select_components
from workers.domain import Granularity, Relevance
from workers.pruning import joint_ranking
from workers.pruning.joint_ranking import Pool, rank_jointly
from workers.pruning.ranking import Ranking, rank_components
from workers.pruning.scoring import Score, compute_floor, compute_scores
from workers.pruning.selection import list_indices

WEIGHT = Granularity.WEIGHT


def build_general(*squares: float, first: float = 0.0) -> Relevance:
    """One module of so many weights in a row, with their E[R²] and the same first order."""
    values = torch.tensor(squares)[None]
    return Relevance({"a": torch.full_like(values, first)}, {}, 1, 1, {"a": values})


def build_pool(*columns: list[float]) -> Pool:
    components = select_components({"a": range(len(columns))}, WEIGHT)  # type: ignore[dict-item]
    return Pool(components, torch.tensor(columns).T)


def rank(pool: Pool, benefit: list[float], limit: int, floor: float = 0.0, **options) -> list[int]:
    squares = pool.rows.square().sum(dim=0).tolist()
    ranking = rank_jointly(
        pool, build_general(*squares), {"a": torch.tensor([benefit])}, floor, limit, **options
    )
    return ranking.indices.tolist()


def test_without_coupling_it_is_the_order_of_the_scores() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw() -> torch.Tensor:
        return torch.randn(8, 6, generator=generator)

    general = Relevance(
        {"a": draw(), "b": draw()}, {}, 1, 1, {"a": draw().square(), "b": draw().square()}
    )
    benefit = {"a": draw(), "b": draw()}
    floor = compute_floor(general, Score.BENEFIT_DAMAGE)
    scores = compute_scores(general, benefit, Score.BENEFIT_DAMAGE, 0.7, floor)
    expected = rank_components(scores, WEIGHT, 96)
    components = select_components({"a": range(48), "b": range(48)}, WEIGHT)  # type: ignore[dict-item]
    pool = Pool(components, torch.zeros(3, 96))
    found = rank_jointly(pool, general, benefit, floor, 96, 0.7)
    assert len(found) == len(expected) < 96

    def listed(ranking: Ranking) -> list[tuple[str, int]]:
        owners = [ranking.modules[owner] for owner in ranking.owners.tolist()]
        return list(zip(owners, ranking.indices.tolist(), strict=True))

    assert listed(found) == listed(expected)
    assert list_indices(found.top(5)) == list_indices(expected.top(5))


def test_what_does_the_same_damage_again_waits() -> None:
    pool = build_pool([1.0, 0.0], [1.0, 0.0], [0.0, 1.0])
    assert rank(pool, [3.0, 2.9, 1.0], 3) == [0, 2, 1]
    apart = build_pool([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    assert rank(apart, [3.0, 2.9, 1.0], 3) == [0, 1, 2]


def test_what_undoes_damage_comes_forward() -> None:
    pool = build_pool([2.0, 0.0], [-2.0, 0.0], [0.0, 0.5])
    assert rank(pool, [9.0, 0.5, 0.08], 3) == [0, 1, 2]
    # By itself the third one would come before the second: 0.08 / 0.125 against 0.5 / 2.
    assert rank(pool, [0.0, 0.5, 0.08], 3) == [2, 1]


def test_undoing_never_costs_less_than_part_of_the_own_divergence() -> None:
    # The second and the third undo the first; both are at the least cost, 0.3 · ½ R².
    pool = build_pool([5.0], [-1.0], [-2.0])
    assert rank(pool, [99.0, 1.0, 3.9], 3) == [0, 1, 2]
    assert rank(pool, [99.0, 1.0, 4.1], 3) == [0, 2, 1]


def test_coupling_weighs_more_than_a_component_s_own_damage(monkeypatch) -> None:
    pool = build_pool([1.0, 0.0], [0.5, 0.8], [0.0, 3.0])
    # After the first the second costs ½ · 0.89 + weight · 0.5, the third 4.5.
    assert rank(pool, [9.0, 1.0, 1.0], 3) == [0, 2, 1]
    monkeypatch.setattr(joint_ranking, "COUPLING_WEIGHT", 1.0)
    assert rank(pool, [9.0, 1.0, 1.0], 3) == [0, 1, 2]


def test_the_floor_and_the_weight_of_the_cost_count() -> None:
    pool = build_pool([0.1, 0.0], [0.0, 1.0])
    assert rank(pool, [1.0, 2.0], 2) == [0, 1]
    assert rank(pool, [1.0, 2.0], 2, floor=10.0) == [1, 0]
    assert rank(pool, [1.0, 2.0], 2, cost_weight=0.1) == [1, 0]


def test_nothing_without_benefit_is_ranked() -> None:
    pool = build_pool([1.0], [1.0], [1.0])
    assert rank(pool, [0.0, 2.0, -1.0], 3) == [1]
    other = rank_jointly(pool, build_general(1, 1, 1), {"b": torch.ones(1, 3)}, 0.0, 3)
    assert len(other) == 0
    assert rank(pool, [1.0, 2.0, 3.0], 2) == [2, 1]
    nothing = Pool(select_components({}, WEIGHT), torch.zeros(4, 0))
    assert len(rank_jointly(nothing, build_general(1), {"a": torch.ones(1, 1)}, 0.0, 3)) == 0


@pytest.mark.parametrize("limit", [1, 130, 300])
def test_as_many_as_asked_for(limit: int) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(20, 400, generator=generator)
    pool = Pool(select_components({"a": range(400)}, WEIGHT), rows)  # type: ignore[dict-item]
    chosen = rank(pool, torch.rand(400, generator=generator).add(0.1).tolist(), limit)
    assert len(set(chosen)) == len(chosen) == limit


def test_together_they_cost_less_than_the_best_by_themselves() -> None:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(30, 600, generator=generator) + 0.5 * torch.randn(30, 1, generator=generator)
    benefit = torch.rand(600, generator=generator)
    pool = Pool(select_components({"a": range(600)}, WEIGHT), rows)  # type: ignore[dict-item]
    general = build_general(*rows.square().sum(dim=0).tolist())
    scores = compute_scores(general, {"a": benefit[None]}, Score.BENEFIT_DAMAGE, 1.0, 0.0)
    alone = rank_components(scores, WEIGHT, 100).indices
    together = rank_jointly(pool, general, {"a": benefit[None]}, 0.0, 100).indices

    def damage(chosen: torch.Tensor) -> float:
        return float(rows[:, chosen].sum(dim=1).square().sum())

    assert damage(together) < damage(alone) / 3
    assert float(benefit[together].sum()) > 0.7 * float(benefit[alone].sum())
