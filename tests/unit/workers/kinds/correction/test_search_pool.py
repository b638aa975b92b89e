"""The pool that a search chooses from, and the guards of the texts that must keep working."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.tiny import MODULES, NEURONS, draw_samples
from tests.tiny_families import build_family_model
from tests.unit.workers.correction.cases import build_behaviour
from tests.unit.workers.kinds.correction.correction_inputs import (
    FakeContext,
    FakeInputs,
    build_slice,
    with_spec,
)
from workers.attribution.fisher import compute_margin_rows
from workers.correction.protection import SEARCH_SHARE
from workers.correction.results import ProtectedSlice, TrialSettings
from workers.correction.search import BUDGET_SHARE
from workers.domain import GeneralCost, Granularity
from workers.families import LLAMA, find_family
from workers.kinds.correction.search_pool import (
    LEAST_LIMIT,
    POOL_SHARE,
    build_pool,
    rank_pool,
    weighs_together,
)
from workers.pruning.joint_ranking import DivergenceGuard, MarginGuard, Pool
from workers.pruning.ranking import Ranking
from workers.pruning.selection import list_indices

NEURON, HEAD, WEIGHT = Granularity.NEURON, Granularity.HEAD, Granularity.WEIGHT


@pytest.fixture
def inputs() -> FakeInputs:
    return FakeInputs((build_behaviour(),))


def build_general(mean: float = 0.25, square: float = 4.0) -> GeneralCost:
    """The same of every neuron."""

    def fill(value: float) -> dict[str, torch.Tensor]:
        return {name: torch.full((NEURONS,), value) for name in MODULES}

    return GeneralCost(fill(mean), fill(square), 1, 1)


def pool_of(
    inputs: FakeInputs,
    protection: tuple[ProtectedSlice, ...] = (),
    most: int = 5,
    context: FakeContext | None = None,
    general: GeneralCost | None = None,
) -> Pool:
    """The best neurons of the first layer come first, the lower their number the better."""
    scores = {name: torch.arange(NEURONS, 0, -1).float() - n for n, name in enumerate(MODULES)}
    return build_pool(
        context or FakeContext(),  # type: ignore[arg-type]
        inputs,  # type: ignore[arg-type]
        scores,
        general or build_general(),
        draw_samples([(9, 0), (12, 0)]),
        protection,
        NEURON,
        most,
    )


def test_the_best_by_themselves_are_weighed_together(inputs: FakeInputs) -> None:
    pool = pool_of(inputs, most=4)
    size = 4 * POOL_SHARE
    found = list_indices(pool.components)
    assert list(found) == list(MODULES)
    assert all(indices == list(range(len(indices))) for indices in found.values())
    assert len(pool.components) == size
    (reference,) = pool.guards
    assert isinstance(reference, DivergenceGuard)
    assert reference.limit == pytest.approx(BUDGET_SHARE * inputs.budget.kl_mean)
    assert reference.first_order.tolist() == [0.25] * size
    assert reference.divergence.tolist() == [2.0] * size  # ½ E[R²]
    assert reference.rows.shape[1] == size
    assert bool(reference.rows.any(dim=0).all())


def test_every_protected_slice_is_guarded_by_its_own_samples(inputs: FakeInputs) -> None:
    words = build_slice("words", learn=2, nats_rise=0.2)
    lists = build_slice("lists", learn=3, seed=9, nats_rise=0.0)
    context = FakeContext()
    pool = pool_of(inputs, (words, lists), context=context)
    _, *guards = pool.guards
    for own, guard in zip((words, lists), guards, strict=True):
        assert isinstance(guard, MarginGuard)
        assert guard.name == own.name
        expected = compute_margin_rows(
            inputs.model, LLAMA, pool.components, [one.to_sequence() for one in own.learn], 0
        )
        torch.testing.assert_close(guard.rows, expected.rows)
        for mine, theirs in zip(guard.leads, expected.leads, strict=True):
            torch.testing.assert_close(mine, theirs)
    assert guards[0].limit == pytest.approx(SEARCH_SHARE * 0.2)
    assert guards[1].limit == LEAST_LIMIT  # of nothing: shares of it can still be told
    ((kind, message, data),) = context.events
    assert kind == "search.pool"
    assert message.startswith(f"{5 * POOL_SHARE} neurons to choose from")
    assert message.endswith("and 2 protected slices.")
    assert (data["components"], data["slices"]) == (5 * POOL_SHARE, 2)


def test_a_budget_of_nothing_is_a_limit_that_shares_can_be_told_of(inputs: FakeInputs) -> None:
    inputs = with_spec(inputs, budget={"kl_mean": 0.0})
    assert pool_of(inputs).guards[0].limit == LEAST_LIMIT


def test_components_that_are_useless_leave_an_empty_pool(inputs: FakeInputs) -> None:
    pool = build_pool(
        FakeContext(),  # type: ignore[arg-type]
        inputs,  # type: ignore[arg-type]
        {name: torch.zeros(NEURONS) for name in MODULES},
        build_general(),
        draw_samples([(9, 0)]),
        (build_slice(),),
        NEURON,
        5,
    )
    assert len(pool.components) == 0
    assert len(rank(inputs, pool, amount=3)) == 0


def rank(
    inputs: FakeInputs,
    pool: Pool,
    limited: list[Ranking] | None = None,
    benefit: dict[str, torch.Tensor] | None = None,
    **settings: Any,
) -> Ranking:
    fields = {"origin": "round 1", "granularity": NEURON} | settings
    return rank_pool(
        inputs,  # type: ignore[arg-type]
        pool,
        benefit or {name: torch.ones(NEURONS) for name in MODULES},
        0.0,
        TrialSettings(**fields),
        lambda _, ranking: None if limited is None else limited.append(ranking),
    )


def test_the_prices_of_a_trial_keep_it_from_what_a_slice_needs(inputs: FakeInputs) -> None:
    pool = pool_of(inputs, (build_slice(nats_rise=100.0),), most=24)
    free, dear = (rank(inputs, pool, amount=10, prices=prices) for prices in ({}, {"words": 1e6}))
    guard = pool.guards[1]
    places = {
        (name, index): place
        for place, (name, index) in enumerate(
            (name, index)
            for name, chosen in list_indices(pool.components).items()
            for index in chosen
        )
    }

    def harm(ranking: Ranking) -> float:
        ledger = guard.open()
        chosen = list_indices(ranking.top(10))
        taken = [places[name, index] for name, own in chosen.items() for index in own]
        ledger.add(torch.tensor(taken))
        return ledger.damage

    assert harm(dear) < harm(free)
    assert harm(dear) <= 0  # there are ten that the slice does not need


def test_no_more_of_a_module_than_an_adapter_holds(inputs: FakeInputs) -> None:
    capped = with_spec(inputs, serving={"max_rank": 2})
    pool = pool_of(capped, general=build_general(0.0, 1e6))
    benefit = {MODULES[0]: torch.full((NEURONS,), 9.0), MODULES[1]: torch.ones(NEURONS)}
    limited: list[Ranking] = []
    found = rank(capped, pool, limited, benefit, amount=4)
    assert [len(own) for own in list_indices(found.top(4)).values()] == [2, 2]
    (without,) = limited
    assert [len(own) for own in list_indices(without.top(4)).values()] == [4]
    assert rank(inputs, pool, limited, benefit, amount=4).owners.tolist() == [0] * 4
    assert len(limited) == 1


@pytest.mark.parametrize("kind", list(Granularity))
def test_components_are_weighed_together_where_damage_is_predicted(
    inputs: FakeInputs, kind: Granularity
) -> None:
    assert weighs_together(inputs, kind)  # type: ignore[arg-type]
    for score in ("benefit_cost", "signed_difference"):
        other = with_spec(inputs, attribution={"score": score})
        assert not weighs_together(other, kind)  # type: ignore[arg-type]


def test_neurons_of_fused_experts_are_ranked_one_by_one(inputs: FakeInputs) -> None:
    model = build_family_model("mixtral")
    mixture: Any = replace(inputs, model=model, family=find_family(model))
    assert not weighs_together(mixture, NEURON)
    assert weighs_together(mixture, HEAD)
