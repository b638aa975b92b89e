"""Components that are weighed beside those chosen before them, by numbers worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from excise.names import Granularity, Score
from tests.tiny import select_components
from workers.domain import GeneralCost, Selection
from workers.pruning import joint_ranking
from workers.pruning.damage import LEAST_DIVERGENCE_SHARE, compute_divergence
from workers.pruning.joint_ranking import (
    COUPLING_WEIGHT,
    DEAREST,
    FALL_SPREAD,
    ROWS_AT_ONCE,
    DivergenceGuard,
    Guard,
    MarginGuard,
    Pool,
    compute_price,
    gather,
    rank_jointly,
)
from workers.pruning.ranking import Ranking, rank_components
from workers.pruning.scoring import compute_floor, compute_scores
from workers.pruning.selection import list_indices

WEIGHT = Granularity.WEIGHT


def build_general(*squares: float, first: float = 0.0) -> GeneralCost:
    """One module of so many weights in a row, with their E[R²] and the same first order."""
    values = torch.tensor(squares)[None]
    return GeneralCost({"a": torch.full_like(values, first)}, {"a": values}, 1, 1)


def guard_divergence(
    components: Selection, general: GeneralCost, rows: torch.Tensor, limit: float = 1.0
) -> DivergenceGuard:
    """The guard of the reference text, as a search builds it."""
    return DivergenceGuard(
        name="kl",
        limit=limit,
        first_order=gather(components, general.first_order),
        divergence=compute_divergence(gather(components, general.fisher)),
        rows=rows,
    )


def pool_of(general: GeneralCost, rows: torch.Tensor, *others: Guard, limit: float = 1.0) -> Pool:
    """All weights of the modules that `general` names."""
    sizes = {name: values.numel() for name, values in general.fisher.items()}
    components = select_components({name: range(n) for name, n in sizes.items()}, WEIGHT)
    return Pool(components, (guard_divergence(components, general, rows, limit), *others))


def build_pool(*columns: list[float], others: tuple[Guard, ...] = (), limit: float = 1.0) -> Pool:
    """One module; each component's divergence by itself is what its column says."""
    rows = torch.tensor(columns).T
    return pool_of(build_general(*rows.square().sum(dim=0).tolist()), rows, *others, limit=limit)


def rank(pool: Pool, benefit: list[float], limit: int, floor: float = 0.0, **options) -> list[int]:
    ranking = rank_jointly(pool, torch.tensor(benefit).double(), floor, limit, **options)
    return ranking.indices.tolist()


def test_without_coupling_it_is_the_order_of_the_scores() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw() -> torch.Tensor:
        return torch.randn(8, 6, generator=generator)

    general = GeneralCost(
        {"a": draw(), "b": draw()}, {"a": draw().square(), "b": draw().square()}, 1, 1
    )
    benefit = {"a": draw(), "b": draw()}
    floor = compute_floor(general, Score.BENEFIT_DAMAGE)
    scores = compute_scores(general, benefit, Score.BENEFIT_DAMAGE, 0.7, floor)
    expected = rank_components(scores, WEIGHT, 96)
    pool = pool_of(general, torch.zeros(3, 96))
    found = rank_jointly(pool, gather(pool.components, benefit), floor, 96, 0.7)
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
    elsewhere = gather(pool.components, {"b": torch.ones(1, 3)})
    assert len(rank_jointly(pool, elsewhere, 0.0, 3)) == 0
    assert rank(pool, [1.0, 2.0, 3.0], 2) == [2, 1]
    nothing = pool_of(GeneralCost({}, {}, 1, 1), torch.zeros(4, 0))
    assert len(rank_jointly(nothing, torch.empty(0), 0.0, 3)) == 0


@pytest.mark.parametrize("limit", [1, 130, 300])
def test_as_many_as_asked_for(limit: int) -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(20, 400, generator=generator)
    pool = pool_of(build_general(*rows.square().sum(dim=0).tolist()), rows)
    chosen = rank(pool, torch.rand(400, generator=generator).add(0.1).tolist(), limit)
    assert len(set(chosen)) == len(chosen) == limit


def test_together_they_cost_less_than_the_best_by_themselves() -> None:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(30, 600, generator=generator) + 0.5 * torch.randn(30, 1, generator=generator)
    benefit = torch.rand(600, generator=generator)
    general = build_general(*rows.square().sum(dim=0).tolist())
    pool = pool_of(general, rows)
    scores = compute_scores(general, {"a": benefit[None]}, Score.BENEFIT_DAMAGE, 1.0, 0.0)
    alone = rank_components(scores, WEIGHT, 100).indices
    together = rank_jointly(pool, benefit.double(), 0.0, 100).indices

    def damage(chosen: torch.Tensor) -> float:
        return float(rows[:, chosen].sum(dim=1).square().sum())

    assert damage(together) < damage(alone) / 3
    assert float(benefit[together].sum()) > 0.7 * float(benefit[alone].sum())


# --- guards --------------------------------------------------------------------------------


def test_a_text_s_damage_is_half_the_squared_disturbance() -> None:
    (guard,) = build_pool([1.0, 2.0], [3.0, -1.0]).guards
    ledger = guard.open()
    assert ledger.damage == 0.0
    assert ledger.compute_costs().tolist() == [2.5, 5.0]  # by themselves
    ledger.add(torch.tensor([1]))
    assert ledger.damage == pytest.approx(5.0)
    # (Gᵀ G m)ₖ: 1·3 − 2·1 = 1 and 3·3 + 1·1 = 10, weighed, beside each one's own.
    expected = [2.5 + COUPLING_WEIGHT, 5.0 + 10 * COUPLING_WEIGHT]
    assert ledger.compute_costs().tolist() == pytest.approx(expected)
    ledger.add(torch.tensor([0]))
    assert ledger.damage == pytest.approx(0.5 * (4**2 + 1**2))
    assert guard.open().damage == 0.0  # each ranking has a ledger of its own


def test_rows_in_half_of_the_memory_are_added_up_in_full_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(2 * ROWS_AT_ONCE + 5, 300, generator=generator).bfloat16()
    taken = torch.arange(0, 300, 2)
    found, expected = (
        pool_of(build_general(*[1.0] * 300), own).guards[0].open() for own in (rows, rows.float())
    )
    for ledger in (found, expected):
        ledger.add(taken)
    # Sums of 150 in bfloat16 would be off by per cents.
    assert found.damage == pytest.approx(expected.damage, rel=1e-5)
    torch.testing.assert_close(found.compute_costs(), expected.compute_costs())


NEVER = 1e9
"""A limit on the share of right items that no fall comes near."""


def guard_margin(
    *rows: list[float],
    leads: tuple[list[float], ...],
    limit: float = 1.0,
    fall_limit: float = NEVER,
    edges: tuple[float, ...] = (0.0,),
) -> Guard:
    return MarginGuard(
        name="words",
        limit=limit,
        fall_limit=fall_limit,
        rows=torch.tensor(rows),
        leads=tuple(map(torch.tensor, leads)),
        edges=torch.tensor(edges),
    )


def build_margin(
    name: str,
    limit: float,
    rows: torch.Tensor,
    *leads: torch.Tensor,
    fall_limit: float = NEVER,
    edges: torch.Tensor | None = None,
) -> MarginGuard:
    edges = torch.zeros(1) if edges is None else edges
    return MarginGuard(name, limit, fall_limit, rows, leads, edges)


def squash(lead: float) -> float:
    return 1 / (1 + math.exp(-lead))


def lose(lead: float) -> float:
    return math.log1p(math.exp(-lead))


def test_a_slice_s_damage_is_the_logistic_loss_of_its_leads() -> None:
    ledger = guard_margin([0.25, -3.0], leads=([0.0, 1.0],)).open()
    assert ledger.damage == 0.0
    ledger.add(torch.tensor([0]))
    # Both tokens' leads fall by 2 · 0.25.
    expected = (lose(-0.5) + lose(0.5) - lose(0.0) - lose(1.0)) / 2
    assert ledger.damage == pytest.approx(expected)
    ledger.add(torch.tensor([1]))
    assert ledger.damage < 0  # the leads rose: nothing is lost


def test_every_sample_s_fall_is_held_against_the_smallest_leads_of_all_items() -> None:
    """No token is lost by itself, but items are, if they fall as the first sample does."""
    ledger = guard_margin(
        [0.5, 0.0], [-0.5, 0.0], leads=([9.0], [9.0]), limit=0.4, fall_limit=0.1, edges=(1.0, 2.0)
    ).open()
    ledger.add(torch.tensor([0]))
    pairs = [(edge, fall) for fall in (1.0, -1.0) for edge in (1.0, 2.0)]
    lost = sum(squash(edge) - squash(edge - fall) for edge, fall in pairs) / 4
    assert lost > 0.02
    assert ledger.damage == pytest.approx(lost * 0.4 / 0.1)  # in nats, by the ratio of limits
    first = sum(squash(edge - 1.0) * squash(1.0 - edge) for edge in (1.0, 2.0)) / 4
    second = sum(squash(edge + 1.0) * squash(-1.0 - edge) for edge in (1.0, 2.0)) / 4
    expected = FALL_SPREAD * (0.5 * first - 0.5 * second) * 0.4 / 0.1
    assert ledger.compute_costs().tolist() == pytest.approx([expected, 0.0])


def test_what_a_component_costs_a_slice_rises_as_its_leads_fall() -> None:
    ledger = guard_margin([0.4, 0.2, -0.1], leads=([0.0],)).open()
    # The slope of log(1 + exp(−lead)) at 0 is ½, and leads fall twice the mean.
    assert ledger.compute_costs().tolist() == pytest.approx([0.4, 0.2, 0.0])
    ledger.add(torch.tensor([0]))
    slope = FALL_SPREAD * squash(0.8)
    assert ledger.compute_costs().tolist() == pytest.approx([0.4 * slope, 0.2 * slope, 0.0])


def test_every_token_counts_once_and_one_far_ahead_next_to_nothing() -> None:
    ledger = guard_margin([0.3, 0.0], [0.0, 0.3], leads=([0.0, 0.0], [30.0])).open()
    first, second = ledger.compute_costs().tolist()
    assert first == pytest.approx(2 * 0.3 * (2 * 0.5) / 3)  # two of the three tokens
    assert 0 < second < 1e-12


def test_a_component_that_does_good_here_pays_for_no_harm_there() -> None:
    """One sample gains what the other loses: in sum nothing; a gain alone is never a cost."""
    ledger = guard_margin([0.5, -1.0], [-0.5, 0.0], leads=([0.0], [0.0])).open()
    assert ledger.compute_costs().tolist() == pytest.approx([0.0, 0.0])


@pytest.mark.parametrize(
    ("use", "price"),
    [(-2.0, 0.0), (0.0, 0.0), (0.5, 1.0), (0.75, 3.0), (0.9, 9.0), (0.999, DEAREST),
     (1.0, DEAREST), (40.0, DEAREST)],
)  # fmt: skip
def test_the_price_rises_toward_the_limit(use: float, price: float) -> None:
    assert compute_price(use) == pytest.approx(price)


def build_guarded(limit: float) -> Pool:
    """Three components as dear to the text; two harm a slice, whose token leads by nothing."""
    slice_ = guard_margin([0.4, 0.4, 0.0], leads=([0.0],), limit=limit)
    apart = ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    return build_pool(*apart, others=(slice_,))


def test_what_harms_a_slice_is_taken_far_from_its_limit_and_passed_over_near_it() -> None:
    # The first one costs the slice log(1 + e^0.8) − log 2 = 0.478 nats a token.
    benefit = [4.0, 3.0, 1.0]
    assert rank(build_guarded(limit=100.0), benefit, 2) == [0, 1]
    # Half the limit is used, the price 1: 3 / (0.5 + 0.552) is still more than 1 / 0.5.
    assert rank(build_guarded(limit=0.956), benefit, 2) == [0, 1]
    # 96 % of it, price 21.7: 3 / (0.5 + 24) is not.
    assert rank(build_guarded(limit=0.5), benefit, 2) == [0, 2]
    assert rank(build_guarded(limit=0.5), benefit, 3) == [0, 2, 1]


def test_a_slice_that_lost_too_much_before_is_dear_from_the_start() -> None:
    pool, benefit = build_guarded(limit=1.0), [4.0, 3.0, 1.0]
    assert rank(pool, benefit, 3, prices={}) == [0, 1, 2]
    # 4 / (0.5 + 8 · 0.4), 3 / (0.5 + 8 · 0.4), 1 / 0.5.
    assert rank(pool, benefit, 3, prices={"words": 8.0}) == [2, 0, 1]
    assert rank(pool, benefit, 3, prices={"another": 8.0}) == [0, 1, 2]


def test_a_nat_counts_by_its_share_of_each_limit() -> None:
    # 4 / (0.5 + price · 0.4 · text's limit / slice's limit) against 1 / 0.5: from 3.75 on.
    def first(text_limit: float, slice_limit: float, price: float) -> int:
        slice_ = guard_margin([0.4, 0.0], leads=([0.0],), limit=slice_limit)
        pool = build_pool([1.0, 0.0], [0.0, 1.0], others=(slice_,), limit=text_limit)
        return rank(pool, [4.0, 1.0], 1, prices={"words": price})[0]

    assert [first(1.0, 1.0, price) for price in (3.7, 3.8)] == [0, 1]
    assert [first(2.0, 1.0, price) for price in (1.8, 1.9)] == [0, 1]
    assert [first(1.0, 2.0, price) for price in (7.4, 7.6)] == [0, 1]


def test_a_slice_that_loses_nothing_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(5)
    rows = torch.randn(12, 60, generator=generator)
    benefit = torch.rand(60, generator=generator).tolist()
    general = build_general(*rows.square().sum(dim=0).tolist())
    spared = build_margin(
        "words", 0.1, -torch.rand(2, 60, generator=generator), torch.zeros(3), torch.zeros(1)
    )
    alone, beside = pool_of(general, rows), pool_of(general, rows, spared)
    assert rank(beside, benefit, 40) == rank(alone, benefit, 40)


def rank_slowly(pool: Pool, benefit: list[float], floor: float, limit: int) -> list[int]:
    """One component at a time, every cost computed anew from what is chosen, in plain loops."""
    text, *slices = pool.guards
    assert isinstance(text, DivergenceGuard)
    chosen: list[int] = []

    def falls_of(own: MarginGuard) -> list[float]:
        return [FALL_SPREAD * sum(float(row[one]) for one in chosen) for row in own.rows]

    def lose_nats(own: MarginGuard, one: int) -> tuple[float, float]:
        """The share of the limit on nats that is used, and what the component adds, in nats."""
        left = [
            [float(lead) - fall for lead in leads]
            for leads, fall in zip(own.leads, falls_of(own), strict=True)
        ]
        count = sum(map(len, left))
        before = sum(lose(float(lead)) for leads in own.leads for lead in leads)
        rise = (sum(lose(lead) for leads in left for lead in leads) - before) / count
        slope = sum(
            float(row[one]) * squash(-lead)
            for row, leads in zip(own.rows, left, strict=True)
            for lead in leads
        )
        return rise / own.limit, FALL_SPREAD * slope / count

    def lose_items(own: MarginGuard, one: int) -> tuple[float, float]:
        """The same for the share of items that are right; what is added is converted to nats."""
        falls, edges = falls_of(own), own.edges.tolist()
        pairs = len(falls) * len(edges)
        fall = sum(squash(edge) - squash(edge - fall) for fall in falls for edge in edges) / pairs
        slope = sum(
            float(row[one]) * squash(edge - fall) * squash(fall - edge)
            for row, fall in zip(own.rows, falls, strict=True)
            for edge in edges
        )
        added = FALL_SPREAD * slope / pairs
        return fall / own.fall_limit, added * own.limit / own.fall_limit

    def cost(one: int) -> float:
        coupled = sum(float(row[one]) * sum(float(row[c]) for c in chosen) for row in text.rows)
        own = float(text.divergence[one])
        whole = own + float(text.first_order[one]) + COUPLING_WEIGHT * coupled
        total = max(whole, LEAST_DIVERGENCE_SHARE * own) + floor
        for guard in slices:
            assert isinstance(guard, MarginGuard)
            nats, items = lose_nats(guard, one), lose_items(guard, one)
            use, harm = nats if nats[0] >= items[0] else items
            total += compute_price(use) * max(harm, 0.0) * text.limit / guard.limit
        return total

    while len(chosen) < limit:
        rest = [one for one in range(len(benefit)) if one not in chosen and benefit[one] > 0]
        chosen.append(max(rest, key=lambda one: benefit[one] / cost(one)))
    return chosen


def test_the_order_is_that_of_plain_loops() -> None:
    generator = torch.Generator().manual_seed(6)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    rows = draw(6, 30) * 0.3
    general = build_general(*rows.square().sum(dim=0).tolist(), first=0.01)
    words = build_margin("words", 0.2, draw(3, 30) * 0.1, draw(4), draw(1), draw(2) + 3)
    lists = build_margin("lists", 0.05, draw(2, 30) * 0.1, draw(2) + 1, draw(5))
    own = draw(2, 30).abs() * 0.1
    songs = build_margin("songs", 0.5, own, draw(1) + 4, draw(2), fall_limit=0.1, edges=draw(3) + 1)
    benefit = draw(30).abs().tolist()
    pool = pool_of(general, rows, words, lists, songs, limit=0.5)
    found = rank(pool, benefit, 20, floor=0.02)
    assert found == rank_slowly(pool, benefit, 0.02, 20)
    for other in ((words, lists), (words, lists, replace(songs, fall_limit=NEVER))):
        assert found != rank(pool_of(general, rows, *other, limit=0.5), benefit, 20, floor=0.02)
    assert found != rank(pool_of(general, rows, limit=0.5), benefit, 20, floor=0.02)


# --- no more of a module than fits ----------------------------------------------------------


def build_two_modules() -> tuple[Pool, dict[str, torch.Tensor]]:
    """Five components of one module, then three of another that bring less."""
    squares = {"a": torch.ones(1, 5), "b": torch.ones(1, 3)}
    nothing = {name: torch.zeros_like(values) for name, values in squares.items()}
    general = GeneralCost(nothing, squares, 1, 1)
    benefit = {"a": torch.tensor([[9.0, 8, 7, 6, 5]]), "b": torch.tensor([[3.0, 2, 1]])}
    return pool_of(general, torch.zeros(2, 8)), benefit


def places(ranking: Ranking) -> list[tuple[str, int]]:
    owners = [ranking.modules[owner] for owner in ranking.owners.tolist()]
    return list(zip(owners, ranking.indices.tolist(), strict=True))


@pytest.mark.parametrize("steps", [128, 2, 1])
def test_a_full_module_gives_no_more_and_the_others_go_on(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint_ranking, "STEPS", steps)  # few: many at a time
    pool, benefit = build_two_modules()
    found = rank_jointly(pool, gather(pool.components, benefit), 0.0, 4, most_of_module=2)
    assert places(found) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    everything = rank_jointly(pool, gather(pool.components, benefit), 0.0, 8, most_of_module=2)
    assert places(everything) == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    free = rank_jointly(pool, gather(pool.components, benefit), 0.0, 4)
    assert places(free) == [("a", 0), ("a", 1), ("a", 2), ("a", 3)]


def test_what_a_full_module_does_not_give_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_ranking, "STEPS", 1)
    squares = {"a": torch.ones(1, 2), "b": torch.ones(1, 2)}
    nothing = {name: torch.zeros_like(values) for name, values in squares.items()}
    # Both of `a` come in one step with one place left; only the first must count as damage, else
    # the second of `b`, which undoes what `a`'s second would do, would seem the cheaper one.
    rows = torch.tensor([[0.0, 1.0, 0.0, -1.0]])
    pool = pool_of(GeneralCost(nothing, squares, 1, 1), rows)
    benefit = {"a": torch.tensor([[9.0, 8.0]]), "b": torch.tensor([[1.1, 1.0]])}
    found = rank_jointly(pool, gather(pool.components, benefit), 0.0, 2, most_of_module=1)
    assert places(found) == [("a", 0), ("b", 0)]


def test_what_is_kept_of_a_step_is_no_larger_than_what_it_took(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[tuple[int, int]] = []
    sum_columns = joint_ranking._sum_columns

    def watch(rows: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
        kept.append((len(taken), taken.untyped_storage().nbytes() // taken.element_size()))
        return sum_columns(rows, taken)

    monkeypatch.setattr(joint_ranking, "_sum_columns", watch)
    monkeypatch.setattr(joint_ranking, "STEPS", 4)
    columns = [[0.1 + 0.01 * number] for number in range(40)]
    rank(build_pool(*columns), [1.0] * 40, 8)
    assert kept == [(2, 2)] * 4
