"""The questions of a contrast and their answers, by every attributor, and through bytes."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.tiny import MODULES, NEURONS, build_tiny_model, draw_samples
from workers.attribution.attributors import Attributor, compute_relevance
from workers.attribution.contrastive import (
    ContrastiveRelevance,
    Side,
    combine_answers,
    list_questions,
    parse_relevance,
    serialise_relevance,
    sum_answer,
)
from workers.attribution.sums import finish
from workers.attribution.targets import Target
from workers.domain import Granularity, TokenSequence
from workers.families import LLAMA

GENERAL = ((10, 0), (4, 0), (7, 0))
UNDESIRED = ((3, 6), (5, 2))
every_attributor = pytest.mark.parametrize("attributor", list(Attributor))
NEEDS_SAMPLES = tuple(set(Attributor) - {Attributor.MAGNITUDE, Attributor.RANDOM})


def compute(
    model: LlamaForCausalLM, attributor: Attributor, seed: int = 3, *, predicts_damage: bool = False
) -> tuple[ContrastiveRelevance, int]:
    counts: list[int] = []
    samples = {True: draw_samples(GENERAL, 1), False: draw_samples(UNDESIRED, 2)}
    answers = {
        question.side: finish(
            sum_answer(
                question,
                model,
                LLAMA,
                Granularity.NEURON,
                samples[question.is_general],
                0,
                seed,
                counts.append,
            )
        )
        for question in list_questions(attributor, predicts_damage=predicts_damage)
    }
    return combine_answers(answers), sum(counts)


def statistics_of(relevance) -> list[dict[str, torch.Tensor]]:
    return [relevance.mean, relevance.mean_absolute, relevance.mean_square]


def assert_equal(left: ContrastiveRelevance, right: ContrastiveRelevance) -> None:
    for one, other in ((left.general, right.general), (left.undesired, right.undesired)):
        assert (one.tokens, one.samples) == (other.tokens, other.samples)
        for mine, theirs in zip(statistics_of(one), statistics_of(other), strict=True):
            assert tuple(mine) == tuple(theirs)
            assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@every_attributor
def test_each_attributor_covers_every_neuron(
    model: LlamaForCausalLM, attributor: Attributor
) -> None:
    found, advanced = compute(model, attributor)
    assert advanced == len(GENERAL) + len(UNDESIRED)
    for side, lengths in ((found.general, GENERAL), (found.undesired, UNDESIRED)):
        if attributor in NEEDS_SAMPLES:
            assert (side.tokens, side.samples) == (sum(map(sum, lengths)), len(lengths))
        assert tuple(side.mean) == MODULES
        for value in side.mean.values():
            assert value.shape == (NEURONS,)
            assert torch.isfinite(value).all()
            assert value.any()
    assert tuple(found.general.mean_absolute) == MODULES


@every_attributor
def test_each_attributor_is_deterministic(attributor: Attributor) -> None:
    first, _ = compute(build_tiny_model(), attributor)
    second, _ = compute(build_tiny_model(), attributor)
    assert_equal(first, second)
    assert serialise_relevance(first) == serialise_relevance(second)


@every_attributor
def test_the_seed_matters_to_the_random_attributor_only(
    model: LlamaForCausalLM, attributor: Attributor
) -> None:
    first, _ = compute(model, attributor, seed=1)
    second, _ = compute(model, attributor, seed=2)
    same = serialise_relevance(first) == serialise_relevance(second)
    assert same is (attributor is not Attributor.RANDOM)


@every_attributor
def test_relevance_survives_its_bytes(model: LlamaForCausalLM, attributor: Attributor) -> None:
    found, _ = compute(model, attributor)
    assert_equal(parse_relevance(serialise_relevance(found), MODULES), found)


def test_parsing_keeps_the_order_of_the_modules(model: LlamaForCausalLM) -> None:
    found, _ = compute(model, Attributor.RANDOM)
    parsed = parse_relevance(serialise_relevance(found), MODULES[::-1])
    assert tuple(parsed.general.mean) == MODULES[::-1]
    assert torch.equal(parsed.general.mean[MODULES[1]], found.general.mean[MODULES[1]])


def test_the_two_random_sets_are_drawn_apart(model: LlamaForCausalLM) -> None:
    found, _ = compute(model, Attributor.RANDOM)
    assert not torch.equal(found.general.mean[MODULES[0]], found.undesired.mean[MODULES[0]])


def test_general_text_is_explained_by_its_top_logit(model: LlamaForCausalLM) -> None:
    found, _ = compute(model, Attributor.ATTNLRP)
    alone = compute_relevance(
        model,
        LLAMA,
        Attributor.ATTNLRP,
        Granularity.NEURON,
        draw_samples(GENERAL, 1),
        Target.TOP_LOGIT,
        0,
    )
    for name in MODULES:
        torch.testing.assert_close(found.general.mean[name], alone.mean[name])


def test_the_lrp_attributors_and_the_gradient_disagree(model: LlamaForCausalLM) -> None:
    names = (Attributor.ATTNLRP, Attributor.CP_LRP, Attributor.GRADIENT_X_INPUT)
    found = [compute(model, name)[0].undesired.mean[MODULES[0]] for name in names]
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(found[left], found[right], rtol=0.02)


def test_damage_is_asked_of_the_gradient_whatever_the_attributor(model: LlamaForCausalLM) -> None:
    for attributor in Attributor:
        *general, undesired = list_questions(attributor, predicts_damage=True)
        assert [question.side for question in general] == [Side.LOSS, Side.DIVERGENCE]
        assert {question.attributor for question in general} == {Attributor.GRADIENT_X_INPUT}
        assert (undesired.side, undesired.attributor) == (Side.UNDESIRED, attributor)


def test_loss_and_divergence_make_up_the_general_side(model: LlamaForCausalLM) -> None:
    found, advanced = compute(model, Attributor.ATTNLRP, predicts_damage=True)
    assert advanced == 2 * len(GENERAL) + len(UNDESIRED)
    samples = draw_samples(GENERAL, 1)
    loss = compute_relevance(
        model,
        LLAMA,
        Attributor.GRADIENT_X_INPUT,
        Granularity.NEURON,
        samples,
        Target.EMITTED_LOG_PROBABILITY,
        0,
    )
    for name in MODULES:
        torch.testing.assert_close(found.general.mean[name], loss.mean[name])
        assert (found.general.mean_square[name] >= 0).all()
        assert found.general.mean_square[name].any()
    assert found.general.mean_absolute == {}
    assert_equal(parse_relevance(serialise_relevance(found), MODULES), found)


def test_the_sampled_divergence_approaches_the_fisher_information() -> None:
    model = build_tiny_model()
    (sample,) = draw_samples(((2, 0),), 1)  # one predicted position: its expectation is a sum
    exact = dict.fromkeys(MODULES, torch.zeros(NEURONS))
    with torch.no_grad():
        logits = model(torch.tensor([sample.token_ids])).logits[0, 0]
    for token, probability in enumerate(torch.softmax(logits, -1).tolist()):
        one = compute_relevance(
            model,
            LLAMA,
            Attributor.GRADIENT_X_INPUT,
            Granularity.NEURON,
            [TokenSequence((sample.token_ids[0], token))],
            Target.EMITTED_LOG_PROBABILITY,
            0,
        )
        exact = {name: exact[name] + probability * one.mean_square[name] for name in MODULES}
    sampled = [
        compute_relevance(
            model,
            LLAMA,
            Attributor.GRADIENT_X_INPUT,
            Granularity.NEURON,
            [sample],
            Target.SAMPLED_LOG_PROBABILITY,
            0,
            seed=seed,
        ).mean_square
        for seed in range(400)
    ]
    for name in MODULES:
        mean = torch.stack([values[name] for values in sampled]).mean(0)
        torch.testing.assert_close(mean.sum(), exact[name].sum(), rtol=0.2, atol=0)
