"""What a search measures and explains, on a tiny model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from statistics import fmean

import pytest
import torch

from excise.names import GatedSet
from tests.tiny import MODULES, NEURONS, select_neurons, weight_bytes
from tests.unit.workers.correction.bench_cases import (
    FIRST,
    LOOP,
    NEURON,
    RUDE,
    SECOND,
    SETTINGS,
    candidates_of,
    inputs_of,
    prepare,
)
from tests.unit.workers.correction.cases import FunctionScorer, base_of, build_behaviour
from tests.unit.workers.kinds.correction.correction_inputs import FakeInputs, build_slice
from workers.attribution.contrastive import BehaviourRelevance, ContrastiveRelevance
from workers.correction.answers import collect_answers, collect_continuations, measure_uses
from workers.correction.bench import TuningBench
from workers.correction.continuations import continue_texts, cut_beginnings
from workers.correction.measurement import measure_responses
from workers.correction.results import ExplainedResponses, PreparedCorrection, ProtectedSlice
from workers.domain import GeneralCost, Selection, TokenSequence
from workers.gates.gates import GateRequest
from workers.kinds.correction.attribute import answer_undesired
from workers.measuring.text_damage import ReferenceText
from workers.progress import Advance, ignore
from workers.pruning.components import pruned
from workers.pruning.means import compute_mean_inputs


@pytest.fixture
def inputs() -> FakeInputs:
    """A model with two behaviours."""
    return FakeInputs((LOOP, RUDE))


def bench_of(
    inputs: FakeInputs,
    prepared: PreparedCorrection | None = None,
    *clean: Mapping[str, torch.Tensor],
    advance: Advance = ignore,
    requests: tuple[GateRequest, ...] = (),
) -> TuningBench:
    """The bench; each behaviour has the given clean relevance."""
    behaviours = tuple(BehaviourRelevance(undesired={}, clean=own) for own in clean or ({}, {}))
    nothing = {name: torch.zeros(NEURONS) for name in MODULES}
    relevance = {NEURON: ContrastiveRelevance(GeneralCost(nothing, nothing, 1, 1), behaviours)}
    given = inputs_of(inputs, prepared or prepare(inputs), relevance)
    given = replace(given, requests=requests)
    answer = partial(answer_undesired, inputs, {}, advance=ignore)  # type: ignore[arg-type]
    return TuningBench(given, candidates_of(given), answer, advance)


def measure_text(
    inputs: FakeInputs, selection: Selection, texts: tuple[tuple[int, ...], ...]
) -> tuple[float, float, float]:
    """Perplexity of base and pruned model, and KL divergence."""
    text = ReferenceText(inputs.base, [TokenSequence(ids) for ids in texts])
    with pruned(inputs.model, selection):
        damage = text.measure(inputs.base)
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


def test_the_gates_on_answers_are_asked_of_the_tuning_prompts(inputs: FakeInputs) -> None:
    prepared = prepare(inputs)
    requests = tuple(GateRequest("diversity", 0.0, own.name) for own in inputs.behaviours)
    bench = bench_of(inputs, prepared, requests=requests)
    found = bench.measure(FIRST, SETTINGS)
    base = [
        tuple(outcome.responses for outcome in own.triggering(held_out=False))
        for own in prepared.behaviours
    ]
    before, after = (
        collect_answers(inputs.behaviours, responses) for responses in (base, found.responses)
    )
    assert found.answers == measure_uses(requests, before, after)
    assert any(found.answers.values())
    assert not any(bench.measure(select_neurons({}), SETTINGS).answers.values())


def test_continuations_are_asked_for_where_those_of_the_base_are_known(inputs: FakeInputs) -> None:
    prepared = prepare(inputs)
    requests = (GateRequest("diversity", 0.0, GatedSet.REFERENCE),)
    assert bench_of(inputs, prepared, requests=requests).measure(FIRST, SETTINGS).answers == {}
    beginnings = cut_beginnings(prepared.reference.tune)
    base = continue_texts(inputs.base, inputs.behaviours, beginnings, ignore)
    prepared = prepared.model_copy(update={"continued": tuple(own.response for own in base)})
    found = bench_of(inputs, prepared, requests=requests).observe(FIRST, SETTINGS)
    with pruned(inputs.model, FIRST):
        changed = continue_texts(inputs.base, inputs.behaviours, beginnings, ignore)
    assert found.continued == tuple(own.response for own in changed)
    assert found.continued != prepared.continued
    judged = bench_of(inputs, prepared, requests=requests).judge(found)
    assert (
        judged.answers["diversity:reference"]
        == measure_uses(
            requests,
            {GatedSet.REFERENCE: collect_continuations(prepared.continued)},
            {GatedSet.REFERENCE: collect_continuations(found.continued)},
        )["diversity:reference"]
    )


def test_a_model_without_the_behaviour_has_nothing_to_gain(inputs: FakeInputs) -> None:
    silent = replace(inputs, behaviours=(build_behaviour(FunctionScorer(lambda answer: 0.0)),))
    assert bench_of(silent).measure(FIRST, SETTINGS).gains == (0.0,)


def test_measuring_restores_the_model(inputs: FakeInputs) -> None:
    prepared, before = prepare(inputs), weight_bytes(inputs.model)
    bench_of(inputs, prepared).measure(FIRST, SETTINGS)
    assert weight_bytes(inputs.model) == before
    looks = iter([1])

    def stop(units: int) -> None:
        next(looks)

    with pytest.raises(StopIteration):
        bench_of(inputs, prepared, advance=stop).measure(FIRST, SETTINGS)
    assert weight_bytes(inputs.model) == before


def test_the_mean_on_the_tuning_text_is_left_behind_where_asked_for(inputs: FakeInputs) -> None:
    prepared = prepare(inputs)
    settings = SETTINGS.model_copy(update={"ablation": "mean"})
    found = bench_of(inputs, prepared).measure(FIRST, settings)
    text = [TokenSequence(ids) for ids in prepared.reference.tune]
    means = compute_mean_inputs(inputs.base, inputs.base.find_components(NEURON), text)
    reference = ReferenceText(inputs.base, text)
    with pruned(inputs.model, FIRST, replacement=means):
        damage = reference.measure(inputs.base)
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
    bench = bench_of(inputs, prepare(inputs, protection=(words, lists)))
    bench.measure(FIRST, SETTINGS)  # whatever is measured first is not what the rest is against
    found = bench.measure(SECOND, SETTINGS)
    assert list(found.slices) == ["words", "lists"]
    for own in (words, lists):
        nats, accuracy = slow_damage(inputs, own, SECOND)
        assert found.slices[own.name].nats_rise == pytest.approx(nats, rel=1e-3, abs=1e-5)
        assert found.slices[own.name].accuracy_fall == pytest.approx(accuracy, rel=1e-3, abs=1e-5)
        assert abs(nats) > 0.01
    assert found.slices["words"] != found.slices["lists"]


def test_without_protection_no_slice_is_measured(inputs: FakeInputs) -> None:
    assert bench_of(inputs).measure(FIRST, SETTINGS).slices == {}


def test_pruning_nothing_takes_nothing_from_a_slice(inputs: FakeInputs) -> None:
    bench = bench_of(inputs, prepare(inputs, protection=[build_slice()]))
    found = bench.measure(select_neurons({}), SETTINGS).slices["words"]
    assert (found.nats_rise, found.accuracy_fall) == pytest.approx((0, 0), abs=1e-6)


# --- explaining ----------------------------------------------------------------------------


def test_responses_are_explained_beyond_what_clean_ones_need(inputs: FakeInputs) -> None:
    clean = {name: torch.full((NEURONS,), 0.5) for name in MODULES}
    bench = bench_of(inputs, None, {}, clean)
    undesired = [TokenSequence((1, 2), (3, 4, 5), (False, True, False))]
    found, weight = bench.explain(NEURON, 1, undesired)
    plain = answer_undesired(inputs, {}, NEURON, 0, undesired, None, ignore)  # type: ignore[arg-type]
    assert weight == 1.0
    for name in MODULES:
        torch.testing.assert_close(found[name], plain[name] - 0.5)
    without, _ = bench.explain(NEURON, 0, undesired)
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
    mass = bench._explained[1].mass
    assert mass is not None
    undesired = [TokenSequence((1, 2), (3, 4, 5), (False, True, False)), TokenSequence((3,), (4,))]
    found, weight = bench.explain(NEURON, 1, undesired)
    assert weight == 2 / 8
    # All positions of a response say something, marked or not.
    whole = [TokenSequence((1, 2), (3, 4, 5)), TokenSequence((3,), (4,))]
    plain = answer_undesired(inputs, {}, NEURON, 0, whole, mass, ignore)  # type: ignore[arg-type]
    for name in MODULES:
        torch.testing.assert_close(found[name], plain[name])
