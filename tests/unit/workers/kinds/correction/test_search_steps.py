"""What a search measures, remembers, ranks and explains, on a tiny model."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
import torch

from tests.tiny import MODULES, NEURONS, select_neurons, weight_bytes
from tests.unit.workers.correction.cases import (
    SAMPLED,
    FunctionScorer,
    base_of,
    build_behaviour,
    build_trial,
)
from tests.unit.workers.kinds.correction.correction_inputs import (
    FakeContext,
    FakeInputs,
    build_prepared,
    build_slice,
    with_spec,
)
from workers.attribution.contrastive import BehaviourRelevance, ContrastiveRelevance
from workers.correction.behaviour import Marking
from workers.correction.measurement import measure_responses
from workers.correction.preparation import prepare_behaviour
from workers.correction.results import (
    ExplainedResponses,
    PreparedCorrection,
    ProtectedSlice,
    TrialSettings,
)
from workers.correction.search import SearchSteps
from workers.domain import GeneralCost, Granularity, Relevance, Selection, TokenSequence
from workers.families import LLAMA, find_components, linear_weight
from workers.kinds.correction.attribute import answer_undesired
from workers.kinds.correction.search_pool import POOL_SHARE
from workers.kinds.correction.search_steps import TuningBench, build_steps
from workers.measuring.text_damage import ReferenceText
from workers.progress import ignore
from workers.pruning.components import pruned
from workers.pruning.means import compute_mean_inputs
from workers.pruning.ranking import Ranking, rank_components
from workers.pruning.scoring import Score, compute_scores
from workers.pruning.selection import list_indices
from workers.running.context import CancelledJobError
from workers.scorers.scorer import Answer
from workers.scorers.uniqueness import UniquenessScorer

NEURON, WEIGHT = Granularity.NEURON, Granularity.WEIGHT
PROMPT_IDS = [(index, 2 * index % 101, 5) for index in range(1, 13)]
PROMPTS = [f"w{one} w{two} w{three}" for one, two, three in PROMPT_IDS]
SETTINGS = TrialSettings(origin="round 1", granularity=NEURON, amount=10)
FIRST = select_neurons({MODULES[0]: list(range(20))})
SECOND = select_neurons({MODULES[1]: list(range(5, 25))})


def score_by_sum(answer: Answer) -> float:
    """Above 0.5 for two answers in five."""
    return (sum(answer.token_ids) % 5) / 6


LOOP = build_behaviour(
    UniquenessScorer(), name="loop", decoding=SAMPLED, threshold=0.9, marking=Marking.REPEATED
)
RUDE = build_behaviour(FunctionScorer(score_by_sum))


@pytest.fixture
def inputs() -> FakeInputs:
    """A model with two behaviours."""
    return FakeInputs((LOOP, RUDE))


def prepare(inputs: FakeInputs, **changes: Any) -> PreparedCorrection:
    return build_prepared(
        *(
            prepare_behaviour(
                inputs.base, behaviour, PROMPTS, PROMPT_IDS, inputs.spec.seed, ignore
            ).model_copy(update={"explained": None})
            for behaviour in inputs.behaviours
        ),
        **changes,
    )


def bench_of(
    inputs: FakeInputs,
    prepared: PreparedCorrection | None = None,
    context: FakeContext | None = None,
    upstream: str = "sha",
) -> TuningBench:
    return TuningBench(
        context or FakeContext(),  # type: ignore[arg-type]
        inputs,  # type: ignore[arg-type]
        prepared or prepare(inputs),
        upstream,
    )


def measure_text(
    inputs: FakeInputs, selection: Selection, texts: tuple[tuple[int, ...], ...]
) -> tuple[float, float, float]:
    """Perplexity of base and pruned model, and KL divergence."""
    text = ReferenceText(inputs.model, LLAMA, [TokenSequence(ids) for ids in texts], 0)
    with pruned(inputs.model, selection):
        damage = text.measure(inputs.model)
    return text.base_perplexity, damage.perplexity, damage.kl_mean


@pytest.mark.parametrize("selection", [FIRST, SECOND])
def test_text_is_measured_against_the_base_model(inputs: FakeInputs, selection: Selection) -> None:
    prepared = prepare(inputs)
    bench = bench_of(inputs, prepared)
    bench.measure(FIRST, SETTINGS)  # whatever is measured first is not what the rest is against
    found = bench.measure(selection, SETTINGS)
    base, perplexity, kl = measure_text(inputs, selection, prepared.reference.tune)
    assert kl > 0.001
    assert found.base_perplexity == pytest.approx(base)
    assert found.damage.perplexity == pytest.approx(perplexity)
    assert found.damage.kl_mean == pytest.approx(kl)


def test_perplexity_is_that_of_the_corpus_where_there_is_one(inputs: FakeInputs) -> None:
    prepared = prepare(inputs, corpus=((8, 0), (8, 0)))
    found = bench_of(inputs, prepared).measure(FIRST, SETTINGS)
    base, perplexity, _ = measure_text(inputs, FIRST, prepared.corpus_tune)
    _, other, kl = measure_text(inputs, FIRST, prepared.reference.tune)
    assert found.base_perplexity == pytest.approx(base)
    assert found.damage.perplexity == pytest.approx(perplexity)
    assert found.damage.kl_mean == pytest.approx(kl)
    assert perplexity != pytest.approx(other)


def test_pruning_nothing_gains_and_damages_nothing(inputs: FakeInputs) -> None:
    found = bench_of(inputs).measure(select_neurons({}), SETTINGS)
    assert found.gains == (0.0, 0.0)
    assert found.damage.perplexity == pytest.approx(found.base_perplexity)
    assert found.damage.kl_mean == pytest.approx(0, abs=1e-6)


def test_gains_are_the_share_by_which_undesiredness_fell(inputs: FakeInputs) -> None:
    prepared = prepare(inputs)
    found = bench_of(inputs, prepared).measure(FIRST, SETTINGS)
    rows = zip(inputs.behaviours, prepared.behaviours, strict=True)
    for number, (behaviour, own) in enumerate(rows):
        tune = own.triggering(held_out=False)
        assert tune
        with pruned(inputs.model, FIRST):
            responses = measure_responses(base_of(inputs.model), behaviour, tune, 3, ignore)
        before = behaviour.compute_undesiredness([outcome.responses for outcome in tune])
        after = behaviour.compute_undesiredness(responses)
        assert found.gains[number] == pytest.approx(1 - after / before)
        assert [[one.token_ids for one in samples] for samples in found.responses[number]] == [
            [one.token_ids for one in samples] for samples in responses
        ]
        undesired = [
            (outcome.prompt_ids, one.token_ids)
            for outcome, samples in zip(tune, responses, strict=True)
            for one in samples
            if behaviour.is_undesired(one)
        ]
        assert undesired
        collected = found.undesired[number]
        assert [(one.prompt_ids, one.response_ids) for one in collected] == undesired
        if behaviour is RUDE:  # no bigram comes twice in so short a loop
            assert all(any(one.is_explained) and not all(one.is_explained) for one in collected)
    assert found.gains[0] != found.gains[1]


def test_a_model_without_the_behaviour_has_nothing_to_gain(inputs: FakeInputs) -> None:
    silent = replace(inputs, behaviours=(build_behaviour(FunctionScorer(lambda answer: 0.0)),))
    assert bench_of(silent).measure(FIRST, SETTINGS).gains == (0.0,)


def test_measuring_restores_the_model(inputs: FakeInputs) -> None:
    prepared, before = prepare(inputs), weight_bytes(inputs.model)
    bench_of(inputs, prepared).measure(FIRST, SETTINGS)
    assert weight_bytes(inputs.model) == before
    context = FakeContext(looks_left=1)
    with pytest.raises(CancelledJobError):
        bench_of(inputs, prepared, context).measure(FIRST, SETTINGS)
    assert weight_bytes(inputs.model) == before
    assert context.memory == {}


def test_what_was_measured_is_remembered_by_all_it_depends_on(
    inputs: FakeInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("the model ran again")

    prepared, context = prepare(inputs), FakeContext()
    found = bench_of(inputs, prepared, context).measure(FIRST, SETTINGS)
    monkeypatch.setattr(inputs.model, "generate", refuse)
    later = TrialSettings(origin="refinement 2", granularity=NEURON, amount=99, cost_weight=0.5)
    assert bench_of(inputs, prepared, context).measure(FIRST, later) == found
    others = [
        (SECOND, SETTINGS, "sha"),
        (FIRST, SETTINGS.model_copy(update={"ablation": "mean"}), "sha"),
        (FIRST, SETTINGS, "another"),
    ]
    for selection, settings, upstream in others:
        with pytest.raises(AssertionError, match="ran again"):
            bench_of(inputs, prepared, context, upstream).measure(selection, settings)


def test_the_mean_on_the_tuning_text_is_left_behind_where_asked_for(inputs: FakeInputs) -> None:
    prepared = prepare(inputs)
    settings = SETTINGS.model_copy(update={"ablation": "mean"})
    found = bench_of(inputs, prepared).measure(FIRST, settings)
    text = [TokenSequence(ids) for ids in prepared.reference.tune]
    means = compute_mean_inputs(
        inputs.model, LLAMA, find_components(inputs.model, LLAMA, NEURON), text, 0
    )
    reference = ReferenceText(inputs.model, LLAMA, text, 0)
    with pruned(inputs.model, FIRST, replacement=means):
        damage = reference.measure(inputs.model)
    assert found.damage.kl_mean == pytest.approx(damage.kl_mean)
    _, _, without = measure_text(inputs, FIRST, prepared.reference.tune)
    assert found.damage.kl_mean != pytest.approx(without)


# --- protected slices ------------------------------------------------------------------------


def slow_damage(
    inputs: FakeInputs, own: ProtectedSlice, selection: Selection
) -> tuple[float, float]:
    """Rise of the loss, nats a token, and fall of the mean of σ(least lead) of the targets."""

    def measure() -> tuple[list[float], list[float]]:
        nats, squashed = [], []
        for sample in own.tune:
            ids = torch.tensor([[*sample.prompt_ids, *sample.response_ids]])
            with torch.no_grad():
                logits = inputs.model(input_ids=ids).logits[0].double()
            begin, leads = len(sample.prompt_ids), []
            for place, (token, mark) in enumerate(
                zip(sample.response_ids, sample.marks, strict=True)
            ):
                if mark:
                    row = logits[begin + place - 1]
                    nats.append(-float(row.log_softmax(dim=-1)[token]))
                    others = torch.cat([row[:token], row[token + 1 :]])
                    leads.append(float(row[token] - others.max()))
            squashed += [1 / (1 + math.exp(-min(part))) for part in (leads[:2], leads[2:])]
        return nats, squashed

    nats, squashed = measure()
    with pruned(inputs.model, selection):
        nats_after, squashed_after = measure()
    return fmean(nats_after) - fmean(nats), fmean(squashed) - fmean(squashed_after)


def test_every_protected_slice_is_measured_against_the_base_model(inputs: FakeInputs) -> None:
    words, lists = build_slice("words"), build_slice("lists", seed=9)
    context = FakeContext()
    bench = bench_of(inputs, prepare(inputs, protection=(words, lists)), context)
    bench.measure(FIRST, SETTINGS)  # whatever is measured first is not what the rest is against
    found = bench.measure(SECOND, SETTINGS)
    assert list(found.slices) == ["words", "lists"]
    for own in (words, lists):
        nats, accuracy = slow_damage(inputs, own, SECOND)
        assert found.slices[own.name].nats_rise == pytest.approx(nats, rel=1e-3, abs=1e-5)
        assert found.slices[own.name].accuracy_fall == pytest.approx(accuracy, rel=1e-3, abs=1e-5)
        assert abs(nats) > 0.01
    assert found.slices["words"] != found.slices["lists"]
    again = bench_of(inputs, prepare(inputs, protection=(words, lists)), context)
    assert again.measure(SECOND, SETTINGS).slices == found.slices


def test_without_protection_no_slice_is_measured(inputs: FakeInputs) -> None:
    assert bench_of(inputs).measure(FIRST, SETTINGS).slices == {}


def test_pruning_nothing_takes_nothing_from_a_slice(inputs: FakeInputs) -> None:
    bench = bench_of(inputs, prepare(inputs, protection=[build_slice()]))
    found = bench.measure(select_neurons({}), SETTINGS).slices["words"]
    assert (found.nats_rise, found.accuracy_fall) == pytest.approx((0, 0), abs=1e-6)


# --- ranking, explaining, telling ----------------------------------------------------------


DEAR = 1e6
"""So large a divergence by itself that what components do together is nothing beside it."""

by_every_score = pytest.mark.parametrize("score", ["benefit_damage", "benefit_cost"])
"""The first weighs components together, the second one by one."""


def relevance_of(
    *clean: dict[str, torch.Tensor], score: str = "benefit_damage"
) -> ContrastiveRelevance:
    """Every component costs the same; each behaviour has the given clean relevance."""
    flat = {name: torch.full((NEURONS,), DEAR) for name in MODULES}
    nothing = {name: torch.zeros(NEURONS) for name in MODULES}
    general: Relevance | GeneralCost = Relevance(nothing, flat, 1, 1)
    if score == "benefit_damage":
        general = GeneralCost(nothing, flat, 1, 1)
    return ContrastiveRelevance(
        general, tuple(BehaviourRelevance(undesired={}, clean=own) for own in clean)
    )


def steps_of(
    inputs: FakeInputs,
    bench: TuningBench,
    *clean: dict[str, torch.Tensor],
    context: FakeContext | None = None,
    told: list[int] | None = None,
    limited: list[Ranking] | None = None,
) -> SearchSteps:
    return build_steps(
        context or FakeContext(),  # type: ignore[arg-type]
        inputs,  # type: ignore[arg-type]
        {NEURON: relevance_of(*(clean or ({}, {})), score=inputs.spec.attribution.score)},
        bench,
        {NEURON: 40},
        lambda: None if told is None else told.append(1),
        lambda _, ranking: None if limited is None else limited.append(ranking),
    )


def benefit_of(**starts: float) -> dict[str, torch.Tensor]:
    """Falling benefits of each layer's neurons, from the given start."""
    return {
        name: starts[f"layer{layer}"] - torch.arange(NEURONS) / 10
        for layer, name in enumerate(MODULES)
    }


def top(steps: SearchSteps, benefits: list[Any], **settings: Any) -> dict[str, list[int]]:
    chosen = SETTINGS.model_copy(update=settings)
    return list_indices(steps.rank(benefits, chosen).top(chosen.amount))


@by_every_score
def test_all_layers_compete_unless_told_otherwise(inputs: FakeInputs, score: str) -> None:
    inputs = with_spec(inputs, attribution={"score": score})
    steps = steps_of(inputs, bench_of(inputs))
    benefit = benefit_of(layer0=9.05, layer1=9.0)
    assert top(steps, [benefit], amount=5) == {MODULES[0]: [0, 1, 2], MODULES[1]: [0, 1]}
    assert top(steps, [benefit], amount=3, first_layer=1) == {MODULES[1]: [0, 1, 2]}
    assert top(steps, [benefit], amount=3, last_layer=0) == {MODULES[0]: [0, 1, 2]}


@by_every_score
def test_behaviours_are_combined(inputs: FakeInputs, score: str) -> None:
    inputs = with_spec(inputs, attribution={"score": score})
    steps = steps_of(inputs, bench_of(inputs))
    first = {name: torch.zeros(NEURONS) for name in MODULES}
    second = {name: torch.zeros(NEURONS) for name in MODULES}
    first[MODULES[0]][3], second[MODULES[1]][7] = 1.0, 1000.0
    first[MODULES[1]][7] = -5.0  # it holds back the first
    assert top(steps, [first, second]) == {MODULES[0]: [3]}


def test_the_cost_weight_reaches_the_score(inputs: FakeInputs) -> None:
    steps = steps_of(inputs, bench_of(inputs))
    dear = relevance_of({}).general
    assert isinstance(dear, GeneralCost)
    dear.fisher[MODULES[0]][0] = 100 * DEAR
    steps = build_steps(
        FakeContext(),  # type: ignore[arg-type]
        inputs,  # type: ignore[arg-type]
        {NEURON: ContrastiveRelevance(dear, ())},
        bench_of(inputs),
        {NEURON: 40},
        lambda: None,
    )
    benefit = {name: torch.zeros(NEURONS) for name in MODULES}
    benefit[MODULES[0]][:2] = torch.tensor([6.0, 1.0])
    assert top(steps, [benefit], amount=1, cost_weight=0.1) == {MODULES[0]: [0]}
    assert top(steps, [benefit], amount=1, cost_weight=1.5) == {MODULES[0]: [1]}


@by_every_score
def test_no_module_gives_more_neurons_than_an_adapter_s_rank_holds(
    inputs: FakeInputs, score: str
) -> None:
    capped = with_spec(inputs, serving={"max_rank": 2}, attribution={"score": score})
    limited: list[Ranking] = []
    steps = steps_of(capped, bench_of(capped), limited=limited)
    benefit = benefit_of(layer0=30.0, layer1=9.0)
    assert top(steps, [benefit], amount=4) == {MODULES[0]: [0, 1], MODULES[1]: [0, 1]}
    assert top(steps, [benefit], amount=10) == {MODULES[0]: [0, 1], MODULES[1]: [0, 1]}
    assert list_indices(limited[0].top(4)) == {MODULES[0]: [0, 1, 2, 3]}


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


def rank_weights(
    inputs: FakeInputs, context: FakeContext, most: int, told: list[int] | None = None
) -> SearchSteps:
    inputs = replace(inputs, granularities=(WEIGHT,))
    general: Relevance | GeneralCost = weight_costs(inputs)
    if inputs.spec.attribution.score == "signed_difference":
        general = Relevance(weight_costs(inputs).first_order, {}, 1, 1)
    return build_steps(
        context,  # type: ignore[arg-type]
        inputs,  # type: ignore[arg-type]
        {WEIGHT: ContrastiveRelevance(general, ())},
        bench_of(inputs),
        {WEIGHT: most},
        lambda: None if told is None else told.append(1),
    )


def test_weights_are_chosen_together_from_one_pool(inputs: FakeInputs) -> None:
    context = FakeContext()
    told: list[int] = []
    steps = rank_weights(inputs, context, 20, told)
    benefit = weights_of(inputs, 2)
    ranking = steps.rank([benefit], with_amount(20))
    assert len(ranking) == 20
    ((kind, message, data),) = context.events
    assert kind == "search.pool"
    assert message.startswith(f"{20 * POOL_SHARE} weights to choose from")
    assert (data["components"], data["slices"]) == (20 * POOL_SHARE, 0)
    scores = compute_scores(weight_costs(inputs), benefit, Score.BENEFIT_DAMAGE)
    alone = rank_components(scores, WEIGHT, 20)
    assert list_indices(ranking.top(20)) != list_indices(alone.top(20))

    other = steps.rank([weights_of(inputs, 3)], with_amount(20))
    pool = {
        (name, index)
        for name, chosen in list_indices(steps.rank([benefit], with_amount(999)).top(999)).items()
        for index in chosen
    }
    assert len(pool) == 20 * POOL_SHARE
    assert {
        (name, index) for name, chosen in list_indices(other.top(20)).items() for index in chosen
    } <= pool
    assert len(context.events) == len(told) == 1


def with_amount(amount: int) -> TrialSettings:
    return TrialSettings(origin="round 1", granularity=WEIGHT, amount=amount)


def test_a_layer_range_takes_from_its_part_of_the_pool(inputs: FakeInputs) -> None:
    steps = rank_weights(inputs, FakeContext(), 20)
    benefit = weights_of(inputs, 2)
    steps.rank([benefit], with_amount(20))
    settings = with_amount(20).model_copy(update={"first_layer": 1})
    chosen = list_indices(steps.rank([benefit], settings).top(20))
    assert chosen
    assert all(name.startswith("model.layers.1.") for name in chosen)


def test_where_no_weight_has_a_benefit_none_is_ranked(inputs: FakeInputs) -> None:
    steps = rank_weights(inputs, FakeContext(), 20)
    nothing = {name: torch.zeros_like(values) for name, values in weights_of(inputs, 2).items()}
    assert len(steps.rank([nothing], with_amount(20))) == 0


def test_a_pool_that_is_being_weighed_can_be_cancelled(inputs: FakeInputs) -> None:
    steps = rank_weights(inputs, FakeContext(looks_left=0), 20)
    with pytest.raises(CancelledJobError):
        steps.rank([weights_of(inputs, 2)], with_amount(20))


def test_other_scores_weigh_every_weight_by_itself(inputs: FakeInputs) -> None:
    context = FakeContext()
    inputs = with_spec(inputs, attribution={"score": "signed_difference"})
    steps = rank_weights(inputs, context, 20)
    benefit = weights_of(inputs, 2)
    expected = rank_components(benefit, WEIGHT, 20)
    assert list_indices(steps.rank([benefit], with_amount(20)).top(20)) == list_indices(
        expected.top(20)
    )
    assert context.events == []


def test_responses_are_explained_beyond_what_clean_ones_need(inputs: FakeInputs) -> None:
    bench = bench_of(inputs)
    clean = {name: torch.full((NEURONS,), 0.5) for name in MODULES}
    steps = steps_of(inputs, bench, {}, clean)
    undesired = [TokenSequence((1, 2), (3, 4, 5), (False, True, False))]
    found, weight = steps.explain(NEURON, 1, undesired)
    plain = answer_undesired(inputs, NEURON, 0, undesired, None, ignore)  # type: ignore[arg-type]
    assert weight == 1.0
    for name in MODULES:
        torch.testing.assert_close(found[name], plain[name] - 0.5)
    without, _ = steps.explain(NEURON, 0, undesired)
    for name in MODULES:
        torch.testing.assert_close(without[name], plain[name])


def test_by_undesired_tokens_new_responses_weigh_by_their_number(inputs: FakeInputs) -> None:
    prepared = prepare(inputs)
    own = ExplainedResponses(token_ids=(4, 9), weights=(1.0, 0.5), samples=(((1,), (2, 3)),) * 8)
    behaviours = (
        prepared.behaviours[0],
        prepared.behaviours[1].model_copy(update={"explained": own}),
    )
    bench = bench_of(inputs, prepared.model_copy(update={"behaviours": behaviours}))
    mass = bench.explained[1].mass
    assert mass is not None
    undesired = [TokenSequence((1, 2), (3, 4, 5), (False, True, False)), TokenSequence((3,), (4,))]
    found, weight = steps_of(inputs, bench).explain(NEURON, 1, undesired)
    assert weight == 2 / 8
    # All positions of a response say something, marked or not.
    whole = [TokenSequence((1, 2), (3, 4, 5)), TokenSequence((3,), (4,))]
    plain = answer_undesired(inputs, NEURON, 0, whole, mass, ignore)  # type: ignore[arg-type]
    for name in MODULES:
        torch.testing.assert_close(found[name], plain[name])


def test_every_trial_is_an_event(inputs: FakeInputs) -> None:
    context, told = FakeContext(), list[int]()
    steps = steps_of(inputs, bench_of(inputs), context=context, told=told)
    steps.tell(build_trial((0.5, -0.25), kl=0.0123, perplexity=10.1))
    lost = build_trial((0.5, 0.5), within=False, bound_by="words", use=1.2, last_layer=3)
    steps.tell(lost)
    steps.tell(lost)  # remembered, after a restart
    assert told == [1, 1, 1]
    (kind, message, data), (_, over, later) = context.events
    assert kind == "search.trial"
    assert message == (
        "round 1, 1 neurons: loop -50%, rudeness +25%, perplexity +1.00%, KL 0.0123, "
        "kl at 50% of what the search allows"
    )
    assert over.endswith(", over budget: words at 120% of what the search allows")
    assert (later["last_layer"], later["within_budget"]) == (3, False)
    assert data == {
        "origin": "round 1",
        "granularity": "neuron",
        "amount": 1,
        "cost_weight": 1.0,
        "first_layer": 0,
        "last_layer": None,
        "ablation": "zero",
        "prices": {},
        "components": 1,
        "gains": {"loop": 0.5, "rudeness": -0.25},
        "perplexity_increase": pytest.approx(0.01),
        "kl": 0.0123,
        "bound_by": "kl",
        "use": 0.5,
        "within_budget": True,
    }
