"""The questions of a contrast and their answers, by every attributor, and through bytes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from transformers import LlamaForCausalLM

from excise.names import READ_NO_SAMPLES, Attributor, Granularity, Statistic
from tests.tiny import MODULES, NEURONS, as_loaded, build_tiny_model, draw_samples
from workers.attribution.attribution import Attribution, Pass
from workers.attribution.attributors import compute_relevance, sum_relevance
from workers.attribution.contrastive import (
    BehaviourRelevance,
    ContrastiveRelevance,
    Question,
    Side,
    ask,
    ask_responses,
    combine_general,
    list_general_questions,
    parse_relevance,
    serialise_relevance,
)
from workers.attribution.sums import finish
from workers.attribution.targets import Target
from workers.domain import GeneralCost, Relevance, Selection, Shortlist, TokenSequence

GENERAL = ((10, 0), (4, 0), (7, 0))
UNDESIRED = ((3, 6), (5, 2))
CLEAN = ((3, 4), (5, 5))
SAMPLES = {
    Side.UNDESIRED: draw_samples(UNDESIRED, 2),
    Side.CLEAN: draw_samples(CLEAN, 4),
}
NEURON, HEAD = Granularity.NEURON, Granularity.HEAD
NAMES = {NEURON: MODULES}
every_attributor = pytest.mark.parametrize("attributor", list(Attributor))
NEEDS_SAMPLES = tuple(own for own in Attributor if own not in READ_NO_SAMPLES)


def answer(
    model: LlamaForCausalLM, question: Question, seed: int = 3, counts: list[int] | None = None
) -> Relevance:
    samples = SAMPLES.get(question.side, draw_samples(GENERAL, 1))
    advance = [].append if counts is None else counts.append
    asked = ask(question, NEURON, seed)
    return finish(sum_relevance(as_loaded(model), asked, samples, Pass(advance=advance)))


def compute(
    model: LlamaForCausalLM, attributor: Attributor, seed: int = 3, *, predicts_damage: bool = False
) -> tuple[ContrastiveRelevance, int]:
    """The relevance of one behaviour, and how far it said it had come."""
    counts: list[int] = []
    general = combine_general(
        {
            question.side: answer(model, question, seed, counts)
            for question in list_general_questions(attributor, predicts_damage=predicts_damage)
        }
    )
    undesired, clean = (
        dict(answer(model, ask_responses(attributor, side), seed, counts).mean)
        for side in (Side.UNDESIRED, Side.CLEAN)
    )
    return ContrastiveRelevance(general, (BehaviourRelevance(undesired, clean),)), sum(counts)


def statistics_of(general: Relevance | GeneralCost) -> list[Mapping[str, torch.Tensor]]:
    if isinstance(general, GeneralCost):
        return [general.first_order, general.fisher]
    return [general.mean, general.mean_absolute, general.mean_square]


def relevance_in(found: ContrastiveRelevance) -> Relevance:
    """The general side where one attributor answers for it."""
    assert isinstance(found.general, Relevance)
    return found.general


def cost_in(found: ContrastiveRelevance) -> GeneralCost:
    """The general side where damage is predicted."""
    assert isinstance(found.general, GeneralCost)
    return found.general


def assert_same(mine: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    assert tuple(mine) == tuple(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def assert_equal(left: ContrastiveRelevance, right: ContrastiveRelevance) -> None:
    one, other = left.general, right.general
    assert type(one) is type(other)
    assert (one.tokens, one.samples) == (other.tokens, other.samples)
    for mine, theirs in zip(statistics_of(one), statistics_of(other), strict=True):
        assert_same(mine, theirs)
    for own, their in zip(left.behaviours, right.behaviours, strict=True):
        assert_same(own.undesired, their.undesired)
        assert_same(own.clean, their.clean)


@every_attributor
def test_each_attributor_covers_every_neuron(
    model: LlamaForCausalLM, attributor: Attributor
) -> None:
    found, advanced = compute(model, attributor)
    assert advanced == len(GENERAL) + len(UNDESIRED) + len(CLEAN)
    general, (behaviour,) = relevance_in(found), found.behaviours
    if attributor in NEEDS_SAMPLES:
        assert (general.tokens, general.samples) == (sum(map(sum, GENERAL)), len(GENERAL))
    for mapping in (general.mean, general.mean_absolute, behaviour.undesired, behaviour.clean):
        assert tuple(mapping) == MODULES
        for value in mapping.values():
            assert value.shape == (NEURONS,)
            assert torch.isfinite(value).all()
            assert value.any()


@every_attributor
def test_each_attributor_is_deterministic(attributor: Attributor) -> None:
    first, _ = compute(build_tiny_model(), attributor)
    second, _ = compute(build_tiny_model(), attributor)
    assert_equal(first, second)
    assert serialise_relevance({NEURON: first}) == serialise_relevance({NEURON: second})


@every_attributor
def test_the_seed_matters_to_the_random_attributor_only(
    model: LlamaForCausalLM, attributor: Attributor
) -> None:
    first, _ = compute(model, attributor, seed=1)
    second, _ = compute(model, attributor, seed=2)
    same = serialise_relevance({NEURON: first}) == serialise_relevance({NEURON: second})
    assert same is (attributor is not Attributor.RANDOM)


@every_attributor
def test_relevance_survives_its_bytes(model: LlamaForCausalLM, attributor: Attributor) -> None:
    found, _ = compute(model, attributor)
    assert_equal(parse_relevance(serialise_relevance({NEURON: found}), NAMES)[NEURON], found)


def relevance_of(
    start: float, modules: tuple[str, ...], size: int, behaviours: int
) -> ContrastiveRelevance:
    """Numbers that are all different; every other behaviour has clean responses."""
    values = iter(torch.arange(start, start + 1000))

    def draw() -> dict[str, torch.Tensor]:
        return {name: next(values).repeat(size) for name in modules}

    general = GeneralCost(draw(), draw(), tokens=int(start), samples=2)
    return ContrastiveRelevance(
        general,
        tuple(
            BehaviourRelevance(draw(), draw() if number % 2 else {}) for number in range(behaviours)
        ),
    )


@pytest.mark.parametrize("behaviours", [1, 2, 11])
def test_several_granularities_and_behaviours_survive_their_bytes(behaviours: int) -> None:
    heads = ("model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj")
    names = {HEAD: heads, NEURON: MODULES}
    relevances = {
        NEURON: relevance_of(100.0, MODULES, 5, behaviours),
        HEAD: relevance_of(2000.0, heads, 3, behaviours),
    }
    parsed = parse_relevance(serialise_relevance(relevances), names)
    assert list(parsed) == [HEAD, NEURON]
    for granularity, relevance in relevances.items():
        assert len(parsed[granularity].behaviours) == behaviours
        assert_equal(parsed[granularity], relevance)


def test_parsing_keeps_the_order_of_the_modules() -> None:
    found = relevance_of(7.0, MODULES, 4, 2)
    names = {NEURON: MODULES[::-1]}
    parsed = parse_relevance(serialise_relevance({NEURON: found}), names)[NEURON]
    mine, theirs = cost_in(parsed).first_order, cost_in(found).first_order
    assert tuple(mine) == tuple(parsed.behaviours[1].clean) == MODULES[::-1]
    assert torch.equal(mine[MODULES[1]], theirs[MODULES[1]])


def test_random_relevance_of_two_sides_is_drawn_apart(model: LlamaForCausalLM) -> None:
    found, _ = compute(model, Attributor.RANDOM)
    (behaviour,) = found.behaviours
    sides = [relevance_in(found).mean, behaviour.undesired, behaviour.clean]
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(sides[left][MODULES[0]], sides[right][MODULES[0]])


def test_random_relevance_of_neighbouring_seeds_is_drawn_apart(model: LlamaForCausalLM) -> None:
    found = [
        answer(model, ask_responses(Attributor.RANDOM, side), seed).mean[MODULES[0]]
        for seed in (0, 1, 2)
        for side in (Side.UNDESIRED, Side.CLEAN)
    ]
    assert len({tuple(values.tolist()) for values in found}) == len(found)


def test_general_text_is_explained_by_its_top_logit(model: LlamaForCausalLM) -> None:
    found, _ = compute(model, Attributor.ATTNLRP)
    alone = compute_relevance(
        as_loaded(model),
        Attribution(Attributor.ATTNLRP, NEURON, Target.TOP_LOGIT),
        draw_samples(GENERAL, 1),
    )
    for name in MODULES:
        torch.testing.assert_close(relevance_in(found).mean[name], alone.mean[name])
        torch.testing.assert_close(
            relevance_in(found).mean_absolute[name], alone.mean_absolute[name]
        )


@pytest.mark.parametrize("side", [Side.UNDESIRED, Side.CLEAN])
def test_responses_are_explained_by_their_lead_over_the_runner_up(
    model: LlamaForCausalLM, side: Side
) -> None:
    question = ask_responses(Attributor.CP_LRP, side)
    assert (question.side, question.attributor) == (side, Attributor.CP_LRP)
    assert question.statistics == {Statistic.MEAN}
    assert not question.is_general
    alone = compute_relevance(
        as_loaded(model),
        Attribution(Attributor.CP_LRP, NEURON, Target.EMITTED_MINUS_RUNNER_UP),
        SAMPLES[side],
    )
    for name, values in answer(model, question).mean.items():
        torch.testing.assert_close(values, alone.mean[name])


def test_the_lrp_attributors_and_the_gradient_disagree(model: LlamaForCausalLM) -> None:
    names = (Attributor.ATTNLRP, Attributor.CP_LRP, Attributor.GRADIENT_X_INPUT)
    found = [answer(model, ask_responses(name, Side.UNDESIRED)).mean[MODULES[0]] for name in names]
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(found[left], found[right], rtol=0.02)


@every_attributor
def test_damage_is_asked_of_the_gradient_whatever_the_attributor(attributor: Attributor) -> None:
    loss, divergence = list_general_questions(attributor, predicts_damage=True)
    gradient = Attributor.GRADIENT_X_INPUT
    assert loss == Question(
        Side.LOSS, gradient, Target.EMITTED_LOG_PROBABILITY, frozenset({Statistic.MEAN})
    )
    assert divergence == Question(
        Side.DIVERGENCE,
        gradient,
        Target.SAMPLED_LOG_PROBABILITY,
        frozenset({Statistic.MEAN_SQUARE}),
    )
    (general,) = list_general_questions(attributor, predicts_damage=False)
    assert (general.side, general.attributor) == (Side.GENERAL, attributor)
    assert all(question.is_general for question in (loss, divergence, general))


def test_loss_and_divergence_make_up_the_general_side(model: LlamaForCausalLM) -> None:
    found, advanced = compute(model, Attributor.ATTNLRP, predicts_damage=True)
    assert advanced == 2 * len(GENERAL) + len(UNDESIRED) + len(CLEAN)
    loss = compute_relevance(
        as_loaded(model),
        Attribution(Attributor.GRADIENT_X_INPUT, NEURON, Target.EMITTED_LOG_PROBABILITY),
        draw_samples(GENERAL, 1),
    )
    cost = cost_in(found)
    for name in MODULES:
        torch.testing.assert_close(cost.first_order[name], loss.mean[name])
        assert (cost.fisher[name] >= 0).all()
        assert cost.fisher[name].any()
    assert (found.general.tokens, found.general.samples) == (21, 3)
    assert_equal(parse_relevance(serialise_relevance({NEURON: found}), NAMES)[NEURON], found)


def test_the_benefit_is_what_clean_responses_do_not_need() -> None:
    undesired = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([3.0])}
    clean = {"a": torch.tensor([0.5, -3.0]), "b": torch.tensor([4.0])}
    benefit = BehaviourRelevance({}, clean).compute_benefit(undesired)
    assert {name: values.tolist() for name, values in benefit.items()} == {
        "a": [0.5, 1.0],
        "b": [-1.0],
    }


@pytest.mark.parametrize("clean", [{}, {"a": torch.tensor([0.5])}])
def test_a_benefit_may_be_changed_without_changing_the_relevance(
    clean: dict[str, torch.Tensor],
) -> None:
    undesired = {"a": torch.tensor([2.0])}
    relevance = BehaviourRelevance(undesired, clean)
    relevance.compute_benefit(undesired)["a"].zero_()
    assert undesired["a"].tolist() == [2.0]
    assert relevance.compute_benefit(undesired)["a"].tolist() == [1.5 if clean else 2.0]


def test_the_sampled_divergence_approaches_the_fisher_information() -> None:
    model = build_tiny_model()
    (sample,) = draw_samples(((2, 0),), 1)  # one predicted position: its expectation is a sum
    exact = dict.fromkeys(MODULES, torch.zeros(NEURONS))
    with torch.no_grad():
        logits = model(torch.tensor([sample.token_ids])).logits[0, 0]
    for token, probability in enumerate(torch.softmax(logits, -1).tolist()):
        one = compute_relevance(
            as_loaded(model),
            Attribution(
                Attributor.GRADIENT_X_INPUT, Granularity.NEURON, Target.EMITTED_LOG_PROBABILITY
            ),
            [TokenSequence((sample.token_ids[0], token))],
        )
        exact = {name: exact[name] + probability * one.mean_square[name] for name in MODULES}
    sampled = [
        compute_relevance(
            as_loaded(model),
            Attribution(
                Attributor.GRADIENT_X_INPUT,
                Granularity.NEURON,
                Target.SAMPLED_LOG_PROBABILITY,
                seed=seed,
            ),
            [sample],
        ).mean_square
        for seed in range(400)
    ]
    for name in MODULES:
        mean = torch.stack([values[name] for values in sampled]).mean(0)
        torch.testing.assert_close(mean.sum(), exact[name].sum(), rtol=0.2, atol=0)


def shortlist_of(*places: int) -> tuple[ContrastiveRelevance, Shortlist]:
    """A cost of two modules of which only some places were kept, of the last one none."""
    indices = {MODULES[0]: torch.tensor(places)}
    known = Shortlist(Selection(Granularity.WEIGHT, indices), 0.25, (3.0, 1e-12))
    values = {MODULES[0]: torch.arange(float(len(places)))}
    general = GeneralCost(values, {name: own + 1 for name, own in values.items()}, 7, 2)
    behaviours = (BehaviourRelevance(values, {}), BehaviourRelevance(values, values))
    return ContrastiveRelevance(general, behaviours, known), known


@pytest.mark.parametrize("places", [(), (0, 5, 9), (3, 1 << 40)])
def test_a_shortlist_survives_its_bytes(places: tuple[int, ...]) -> None:
    found, known = shortlist_of(*places)
    data = serialise_relevance({Granularity.WEIGHT: found})
    parsed = parse_relevance(data, {Granularity.WEIGHT: MODULES})[Granularity.WEIGHT]
    assert_equal(parsed, found)
    assert parsed.shortlist is not None
    assert (parsed.shortlist.floor, parsed.shortlist.scales) == (known.floor, known.scales)
    indices = parsed.shortlist.components.indices
    assert {name: own.tolist() for name, own in indices.items()} == {MODULES[0]: list(places)}
    assert len(data) < 2000


def test_relevance_is_taken_at_places(model: LlamaForCausalLM) -> None:
    found, _ = compute(model, Attributor.ATTNLRP, predicts_damage=True)
    at = found.take({MODULES[1]: torch.tensor([4, 2]), MODULES[0]: slice(0, 3)})
    assert at.modules == (MODULES[1], MODULES[0])
    whole, part = cost_in(found), cost_in(at)
    assert torch.equal(part.fisher[MODULES[1]], whole.fisher[MODULES[1]][[4, 2]])
    assert torch.equal(part.first_order[MODULES[0]], whole.first_order[MODULES[0]][:3])
    (own,), (their,) = at.behaviours, found.behaviours
    assert torch.equal(own.clean[MODULES[1]], their.clean[MODULES[1]][[4, 2]])
    assert torch.equal(own.undesired[MODULES[0]], their.undesired[MODULES[0]][:3])
