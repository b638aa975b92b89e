"""Which components a search may prune, the pool it chooses from, and who guards it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from excise.names import Granularity, Score
from tests.tiny import MODULES, NEURONS, as_loaded
from tests.tiny_families import build_family_model
from tests.unit.workers.correction.bench_cases import (
    LOOP,
    NEURON,
    RUDE,
    SETTINGS,
    candidates_of,
    inputs_of,
    prepare,
)
from tests.unit.workers.kinds.correction.correction_inputs import (
    FakeContext,
    FakeInputs,
    build_slice,
    with_spec,
)
from workers.attribution.contrastive import BehaviourRelevance, ContrastiveRelevance
from workers.attribution.fisher import compute_margin_rows
from workers.correction.budget import BUDGET_SHARE
from workers.correction.candidates import (
    POOL_RATIO,
    Candidates,
    PoolSize,
    list_pooled,
    weighs_together,
)
from workers.correction.protection import CONTINUATIONS, SEARCH_SHARE
from workers.correction.results import ProtectedSlice, TrialSettings
from workers.correction.search import Benefit
from workers.correction.slice_guards import ENDS, LEAST_LIMIT
from workers.domain import GeneralCost, Relevance, Selection, Shortlist
from workers.families import LLAMA, find_components, linear_weight
from workers.pruning.components import pruned
from workers.pruning.joint_ranking import (
    DivergenceGuard,
    MarginGuard,
    Pool,
    gather,
    rank_jointly,
)
from workers.pruning.ranking import Ranking, rank_components
from workers.pruning.scoring import (
    combine_benefits,
    compute_floor,
    compute_scores,
    sum_positive,
)
from workers.pruning.selection import list_indices
from workers.running.context import CancelledJobError

HEAD, WEIGHT = Granularity.HEAD, Granularity.WEIGHT


@pytest.fixture
def inputs() -> FakeInputs:
    """A model with two behaviours."""
    return FakeInputs((LOOP, RUDE))


DEAR = 1e6
"""So large a divergence by itself that what components do together is nothing beside it."""

by_every_score = pytest.mark.parametrize("score", [Score.BENEFIT_DAMAGE, Score.BENEFIT_COST])
"""The first weighs components together, the second one by one."""


def relevance_of(
    *clean: dict[str, torch.Tensor], score: Score = Score.BENEFIT_DAMAGE
) -> ContrastiveRelevance:
    """Every component costs the same; each behaviour has the given clean relevance."""
    flat = {name: torch.full((NEURONS,), DEAR) for name in MODULES}
    nothing = {name: torch.zeros(NEURONS) for name in MODULES}
    general: Relevance | GeneralCost = Relevance(nothing, flat, 1, 1)
    if score is Score.BENEFIT_DAMAGE:
        general = GeneralCost(nothing, flat, 1, 1)
    return ContrastiveRelevance(
        general, tuple(BehaviourRelevance(undesired={}, clean=own) for own in clean)
    )


def of_neurons(inputs: FakeInputs, *clean: dict[str, torch.Tensor]) -> Candidates:
    score = inputs.spec.attribution.score
    relevance = {NEURON: relevance_of(*(clean or ({}, {})), score=score)}
    given = inputs_of(inputs, prepare(inputs), relevance)
    return candidates_of(given, max_rank=inputs.spec.serving.find_limit(NEURON))


def benefit_of(**starts: float) -> dict[str, torch.Tensor]:
    """Falling benefits of each layer's neurons, from the given start."""
    return {
        name: starts[f"layer{layer}"] - torch.arange(NEURONS) / 10
        for layer, name in enumerate(MODULES)
    }


def top(candidates: Candidates, benefits: list[Any], **settings: Any) -> dict[str, list[int]]:
    chosen = SETTINGS.model_copy(update=settings)
    return list_indices(candidates.rank(benefits, chosen).ranking.top(chosen.amount))


@by_every_score
def test_all_layers_compete_unless_told_otherwise(inputs: FakeInputs, score: Score) -> None:
    inputs = with_spec(inputs, attribution={"score": score})
    candidates = of_neurons(inputs)
    benefit = benefit_of(layer0=9.05, layer1=9.0)
    assert top(candidates, [benefit], amount=5) == {MODULES[0]: [0, 1, 2], MODULES[1]: [0, 1]}
    assert top(candidates, [benefit], amount=3, first_layer=1) == {MODULES[1]: [0, 1, 2]}
    assert top(candidates, [benefit], amount=3, last_layer=0) == {MODULES[0]: [0, 1, 2]}


@by_every_score
def test_behaviours_are_combined(inputs: FakeInputs, score: Score) -> None:
    inputs = with_spec(inputs, attribution={"score": score})
    candidates = of_neurons(inputs)
    first = {name: torch.zeros(NEURONS) for name in MODULES}
    second = {name: torch.zeros(NEURONS) for name in MODULES}
    first[MODULES[0]][3], second[MODULES[1]][7] = 1.0, 1000.0
    first[MODULES[1]][7] = -5.0  # it holds back the first
    assert top(candidates, [first, second]) == {MODULES[0]: [3]}


def test_the_cost_weight_reaches_the_score(inputs: FakeInputs) -> None:
    dear = relevance_of({}).general
    assert isinstance(dear, GeneralCost)
    dear.fisher[MODULES[0]][0] = 100 * DEAR
    relevance = {NEURON: ContrastiveRelevance(dear, ())}
    candidates = candidates_of(inputs_of(inputs, prepare(inputs), relevance))
    benefit = {name: torch.zeros(NEURONS) for name in MODULES}
    benefit[MODULES[0]][:2] = torch.tensor([6.0, 1.0])
    assert top(candidates, [benefit], amount=1, cost_weight=0.1) == {MODULES[0]: [0]}
    assert top(candidates, [benefit], amount=1, cost_weight=1.5) == {MODULES[0]: [1]}


@by_every_score
def test_no_module_gives_more_neurons_than_an_adapter_s_rank_holds(
    inputs: FakeInputs, score: Score
) -> None:
    capped = with_spec(inputs, serving={"max_rank": 2}, attribution={"score": score})
    candidates = of_neurons(capped)
    benefit = benefit_of(layer0=30.0, layer1=9.0)
    assert top(candidates, [benefit], amount=4) == {MODULES[0]: [0, 1], MODULES[1]: [0, 1]}
    assert top(candidates, [benefit], amount=10) == {MODULES[0]: [0, 1], MODULES[1]: [0, 1]}
    ranked = candidates.rank([benefit], SETTINGS.model_copy(update={"amount": 4}))
    assert ranked.unlimited is not None
    assert list_indices(ranked.unlimited.top(4)) == {MODULES[0]: [0, 1, 2, 3]}
    free = of_neurons(inputs).rank([benefit], SETTINGS)
    assert free.unlimited is None


def weights_of(inputs: FakeInputs, seed: int) -> dict[str, torch.Tensor]:
    """Random positive values of every weight."""
    generator = torch.Generator().manual_seed(seed)
    modules = find_components(inputs.model, LLAMA, WEIGHT)
    return {
        name: torch.rand(linear_weight(module).shape, generator=generator)
        for name, module in modules.items()
    }


def weight_costs(inputs: FakeInputs) -> GeneralCost:
    """Weights that cost something, by themselves; the loss does not depend on them."""
    costs = weights_of(inputs, 1)
    nothing = {name: torch.zeros_like(values) for name, values in costs.items()}
    return GeneralCost(nothing, costs, 1, 1)


def of_weights(
    inputs: FakeInputs,
    most: int = 20,
    pools: list[PoolSize] | None = None,
    context: FakeContext | None = None,
) -> Candidates:
    general: Relevance | GeneralCost = weight_costs(inputs)
    if inputs.spec.attribution.score is Score.SIGNED_DIFFERENCE:
        general = Relevance(weight_costs(inputs).first_order, {}, 1, 1)
    given = inputs_of(inputs, prepare(inputs), {WEIGHT: ContrastiveRelevance(general, ())})
    look = (context or FakeContext()).check_cancelled
    told = [] if pools is None else pools
    return candidates_of(given, most, advance=lambda units: look(), on_pool=told.append)


def rank_weights(candidates: Candidates, benefit: Benefit, **settings: Any) -> Ranking:
    chosen = TrialSettings(origin="round 1", granularity=WEIGHT, amount=20)
    return candidates.rank([benefit], chosen.model_copy(update=settings)).ranking


def test_weights_are_chosen_together_from_one_pool(inputs: FakeInputs) -> None:
    pools: list[PoolSize] = []
    candidates = of_weights(inputs, pools=pools)
    benefit = weights_of(inputs, 2)
    ranking = rank_weights(candidates, benefit)
    assert len(ranking) == 20
    (size,) = pools
    assert (size.granularity, size.components, size.slices) == (WEIGHT, 20 * POOL_RATIO, 0)
    scores = compute_scores(weight_costs(inputs), benefit, Score.BENEFIT_DAMAGE)
    alone = rank_components(scores, WEIGHT, 20)
    assert list_indices(ranking.top(20)) != list_indices(alone.top(20))

    other = rank_weights(candidates, weights_of(inputs, 3))
    pool = {
        (name, index)
        for name, chosen in list_indices(
            rank_weights(candidates, benefit, amount=999).top(999)
        ).items()
        for index in chosen
    }
    assert len(pool) == 20 * POOL_RATIO
    assert {
        (name, index) for name, chosen in list_indices(other.top(20)).items() for index in chosen
    } <= pool
    assert len(pools) == 1


def test_a_layer_range_takes_from_its_part_of_the_pool(inputs: FakeInputs) -> None:
    candidates = of_weights(inputs)
    benefit = weights_of(inputs, 2)
    rank_weights(candidates, benefit)
    chosen = list_indices(rank_weights(candidates, benefit, first_layer=1).top(20))
    assert chosen
    assert all(name.startswith("model.layers.1.") for name in chosen)


def test_where_no_weight_has_a_benefit_none_is_ranked(inputs: FakeInputs) -> None:
    nothing = {name: torch.zeros_like(values) for name, values in weights_of(inputs, 2).items()}
    assert len(rank_weights(of_weights(inputs), nothing)) == 0


def test_a_pool_that_is_being_weighed_can_be_cancelled(inputs: FakeInputs) -> None:
    candidates = of_weights(inputs, context=FakeContext(looks_left=0))
    with pytest.raises(CancelledJobError):
        rank_weights(candidates, weights_of(inputs, 2))


def test_other_scores_weigh_every_weight_by_itself(inputs: FakeInputs) -> None:
    pools: list[PoolSize] = []
    inputs = with_spec(inputs, attribution={"score": "signed_difference"})
    candidates = of_weights(inputs, pools=pools)
    benefit = weights_of(inputs, 2)
    expected = rank_components(benefit, WEIGHT, 20)
    found = rank_weights(candidates, benefit)
    assert list_indices(found.top(20)) == list_indices(expected.top(20))
    assert pools == []


# --- the pool --------------------------------------------------------------------------------


def build_general(mean: float = 0.25, square: float = 4.0) -> GeneralCost:
    """The same of every neuron."""

    def fill(value: float) -> dict[str, torch.Tensor]:
        return {name: torch.full((NEURONS,), value) for name in MODULES}

    return GeneralCost(fill(mean), fill(square), 1, 1)


class Chosen:
    """Candidates with the pool of the first ranking; the first layer's first neurons are best."""

    def __init__(
        self,
        inputs: FakeInputs,
        protection: tuple[ProtectedSlice, ...] = (),
        most: int = 5,
        general: GeneralCost | None = None,
        useful: bool = True,
    ) -> None:
        relevance = {NEURON: ContrastiveRelevance(general or build_general(), ())}
        given = inputs_of(inputs, prepare(inputs, protection=protection), relevance)
        self.sizes: list[PoolSize] = []
        self._candidates = candidates_of(
            given, most, inputs.spec.serving.find_limit(NEURON), on_pool=self.sizes.append
        )
        falling = torch.arange(NEURONS, 0, -1).float()
        best = {name: useful * (falling - number) for number, name in enumerate(MODULES)}
        self.rank(best, amount=most)

    @property
    def pool(self) -> Pool:
        return self._candidates._pools[NEURON].pool

    def rank(self, benefit: Benefit | None = None, **settings: Any) -> Ranking:
        own = benefit or {name: torch.ones(NEURONS) for name in MODULES}
        return self._candidates.rank([own], SETTINGS.model_copy(update=settings)).ranking

    def learn(self, selection: Selection, names: list[str]) -> None:
        self._candidates.learn_slices(selection, names)

    def rank_unlimited(self, benefit: Benefit, amount: int) -> Ranking | None:
        settings = SETTINGS.model_copy(update={"amount": amount})
        return self._candidates.rank([benefit], settings).unlimited


def test_the_best_by_themselves_are_weighed_together(inputs: FakeInputs) -> None:
    pool = Chosen(inputs, most=4).pool
    size = 4 * POOL_RATIO
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
    chosen = Chosen(inputs, (words, lists))
    pool = chosen.pool
    _, *guards = pool.guards
    for own, guard in zip((words, lists), guards, strict=True):
        assert isinstance(guard, MarginGuard)
        assert guard.name == own.name
        expected = compute_margin_rows(
            inputs.base, pool.components, [one.to_sequence() for one in own.learn]
        )
        for mine, theirs in zip(guard.leads, expected.leads, strict=True):
            torch.testing.assert_close(mine, theirs)
        assert not torch.allclose(guard.rows, expected.rows)  # those are learned half-way
    assert guards[0].limit == pytest.approx(SEARCH_SHARE * 0.2)
    assert guards[1].limit == LEAST_LIMIT  # of nothing: shares of it can still be told
    (size,) = chosen.sizes
    assert (size.components, size.slices) == (5 * POOL_RATIO, 2)
    assert size.rows == len(pool.guards[0].rows)  # type: ignore[attr-defined]


def test_where_continuations_are_protected_their_ends_are_guarded(
    inputs: FakeInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, continued = build_slice("words", learn=2), build_slice(CONTINUATIONS, learn=3, seed=9)
    assert len(Chosen(inputs, (words, continued)).pool.guards) == 3  # no token ends a text
    monkeypatch.setattr(type(inputs.base.tokenizer), "eos_token_id", 2, raising=False)
    chosen = Chosen(inputs, (words, continued))
    assert [guard.name for guard in chosen.pool.guards[1:]] == ["words", CONTINUATIONS, ENDS]
    assert chosen.sizes[0].slices == 2
    assert len(Chosen(inputs, (words,)).pool.guards) == 2


def test_what_slices_need_is_learned_half_way_to_what_the_first_ranking_would_prune(
    inputs: FakeInputs,
) -> None:
    words = build_slice("words", learn=2, nats_rise=100.0)
    chosen = Chosen(inputs, (words,), most=24)
    pool = chosen.pool
    samples = [one.to_sequence() for one in words.learn]
    base = compute_margin_rows(inputs.base, pool.components, samples)
    guard = pool.guards[1]
    assert isinstance(guard, MarginGuard)
    free = replace(guard, rows=base.rows)
    falling = torch.arange(NEURONS, 0, -1).float()
    benefit = {name: falling - number for number, name in enumerate(MODULES)}
    pilot = rank_jointly(
        Pool(pool.components, (pool.guards[0], free)),
        gather(pool.components, benefit),
        compute_floor(build_general(), Score.BENEFIT_DAMAGE),
        24,
    ).top(24)
    with pruned(inputs.base.model, pilot, scale=0.5):
        expected = compute_margin_rows(inputs.base, pool.components, samples).rows
    expected[:, pool.components.mark(pilot)] *= 2  # of whole neurons, not of half ones
    torch.testing.assert_close(guard.rows, expected)
    assert not torch.allclose(expected, base.rows)


def test_only_the_slices_asked_for_are_learned_anew(inputs: FakeInputs) -> None:
    words, lists = build_slice("words", learn=2), build_slice("lists", learn=3, seed=9)
    chosen = Chosen(inputs, (words, lists))
    _, before, other = chosen.pool.guards
    chosen.learn(chosen.rank(amount=2).top(2), ["words"])
    _, after, same = chosen.pool.guards
    assert isinstance(before, MarginGuard)
    assert isinstance(after, MarginGuard)
    assert same is other
    assert not torch.equal(after.rows, before.rows)
    assert after.leads is before.leads  # the base model's
    chosen.learn(chosen.rank(amount=2).top(2), [])
    assert chosen.pool.guards[1] is after


def test_a_slice_of_which_too_much_was_lost_is_learned_from_more_samples(
    inputs: FakeInputs,
) -> None:
    further = build_slice("words", learn=3, seed=9).learn
    words = build_slice("words", learn=2).model_copy(update={"more": further})
    chosen = Chosen(inputs, (words,))
    first = chosen.pool.guards[1]
    pruned_by_then = chosen.rank(amount=2).top(2)
    chosen.learn(pruned_by_then, ["words"])
    guard = chosen.pool.guards[1]
    assert isinstance(first, MarginGuard)
    assert isinstance(guard, MarginGuard)
    assert (len(first.rows), len(guard.rows)) == (2, 5)
    samples = [one.to_sequence() for one in (*words.learn, *further)]
    base = compute_margin_rows(inputs.base, chosen.pool.components, samples)
    with pruned(inputs.base.model, pruned_by_then, scale=0.5):
        half_way = compute_margin_rows(inputs.base, chosen.pool.components, samples).rows
    half_way[:, chosen.pool.components.mark(pruned_by_then)] *= 2
    torch.testing.assert_close(guard.rows, half_way)
    for mine, theirs in zip(guard.leads, base.leads, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert (len(first.edges), len(guard.edges)) == (4, 10)  # two items in each


def test_a_budget_of_nothing_is_a_limit_that_shares_can_be_told_of(inputs: FakeInputs) -> None:
    inputs = with_spec(inputs, budget={"kl_mean": 0.0})
    assert Chosen(inputs).pool.guards[0].limit == LEAST_LIMIT


def test_components_that_are_useless_leave_an_empty_pool(inputs: FakeInputs) -> None:
    chosen = Chosen(inputs, (build_slice(),), useful=False)
    assert len(chosen.pool.components) == 0
    assert len(chosen.rank(amount=3)) == 0


def test_the_prices_of_a_trial_keep_it_from_what_a_slice_needs(inputs: FakeInputs) -> None:
    chosen = Chosen(inputs, (build_slice(nats_rise=100.0),), most=24)
    pool = chosen.pool
    free, dear = (chosen.rank(amount=10, prices=prices) for prices in ({}, {"words": 1e6}))
    guard = pool.guards[1]
    places = {
        (name, index): place
        for place, (name, index) in enumerate(
            (name, index) for name, own in list_indices(pool.components).items() for index in own
        )
    }

    def harm(ranking: Ranking) -> float:
        ledger = guard.open()
        best = list_indices(ranking.top(10))
        taken = [places[name, index] for name, own in best.items() for index in own]
        ledger.add(torch.tensor(taken))
        return ledger.damage

    assert harm(dear) < harm(free)
    assert harm(dear) <= 0  # there are ten that the slice does not need


def test_no_more_of_a_module_than_an_adapter_holds(inputs: FakeInputs) -> None:
    capped = with_spec(inputs, serving={"max_rank": 2})
    chosen = Chosen(capped, general=build_general(0.0, 1e6))
    benefit = {MODULES[0]: torch.full((NEURONS,), 9.0), MODULES[1]: torch.ones(NEURONS)}
    found = chosen.rank(benefit, amount=4)
    assert [len(own) for own in list_indices(found.top(4)).values()] == [2, 2]
    without = chosen.rank_unlimited(benefit, 4)
    assert without is not None
    assert [len(own) for own in list_indices(without.top(4)).values()] == [4]
    free = Chosen(inputs, general=build_general(0.0, 1e6))
    assert free.rank(benefit, amount=4).owners.tolist() == [0] * 4
    assert free.rank_unlimited(benefit, 4) is None


@pytest.mark.parametrize("kind", list(Granularity))
def test_components_are_weighed_together_where_damage_is_predicted(
    inputs: FakeInputs, kind: Granularity
) -> None:
    assert weighs_together(inputs.base, kind)
    relevance = {kind: relevance_of({})}
    assert list_pooled(inputs_of(inputs, prepare(inputs), relevance)) == [kind]
    for score in ("benefit_cost", "signed_difference"):
        other = with_spec(inputs, attribution={"score": score})
        assert list_pooled(inputs_of(other, prepare(other), relevance)) == []


def test_neurons_and_weights_of_fused_experts_are_ranked_one_by_one() -> None:
    mixture = as_loaded(build_family_model("mixtral"))
    assert not weighs_together(mixture, NEURON)
    assert not weighs_together(mixture, WEIGHT)
    assert weighs_together(mixture, HEAD)


@pytest.mark.parametrize("score", ["benefit_damage", "benefit_cost"])
def test_a_shortlist_is_ranked_as_the_same_weights_among_all(
    inputs: FakeInputs, score: str
) -> None:
    inputs = with_spec(inputs, attribution={"score": score})
    costs = weights_of(inputs, 1)
    nothing = {name: torch.zeros_like(values) for name, values in costs.items()}
    general: Relevance | GeneralCost = GeneralCost(nothing, costs, 1, 1)
    if score == "benefit_cost":
        general = Relevance(nothing, costs, 1, 1)
    dense = ContrastiveRelevance(general, ())
    benefits = [weights_of(inputs, 2), weights_of(inputs, 3)]
    prepared = prepare(inputs)

    def rank(contrast: ContrastiveRelevance, own: list[Benefit], **settings: Any) -> Ranking:
        candidates = candidates_of(inputs_of(inputs, prepared, {WEIGHT: contrast}), 20)
        chosen = TrialSettings(origin="round 1", granularity=WEIGHT, amount=20)
        return candidates.rank(own, chosen.model_copy(update=settings)).ranking

    floor = compute_floor(general, Score(score))
    scores = compute_scores(general, combine_benefits(benefits), Score(score), 1.0, floor)
    kept = rank_components(scores, WEIGHT, 20 * POOL_RATIO).top(20 * POOL_RATIO)
    places = dict(kept.indices)
    shortlist = Shortlist(kept, floor, tuple(map(sum_positive, benefits)))
    some = replace(dense.take(places), shortlist=shortlist)
    fewer = [{name: own[name].flatten()[at] for name, at in places.items()} for own in benefits]
    assert list_places(rank(some, fewer)) == list_places(rank(dense, benefits))
    upper = list_places(rank(some, fewer, first_layer=1))
    assert upper
    assert all(name.startswith("model.layers.1.") for name, _ in upper)


def list_places(ranking: Ranking) -> list[tuple[str, int]]:
    """The components in order."""
    owners = [ranking.modules[owner] for owner in ranking.owners.tolist()]
    return list(zip(owners, ranking.indices.tolist(), strict=True))
