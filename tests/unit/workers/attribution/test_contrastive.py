"""Contrastive relevance by every attributor: shapes, seeds, and through bytes unchanged."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.tiny import MODULES, NEURONS, build_tiny_model, draw_samples
from workers.attribution.attributors import Attributor, compute_relevance
from workers.attribution.contrastive import (
    ContrastiveRelevance,
    compute_contrastive_relevance,
    parse_relevance,
    serialise_relevance,
)
from workers.attribution.targets import Target
from workers.domain import Granularity
from workers.families import LLAMA

GENERAL = ((10, 0), (4, 0), (7, 0))
UNDESIRED = ((3, 6), (5, 2))
every_attributor = pytest.mark.parametrize("attributor", list(Attributor))
NEEDS_SAMPLES = tuple(set(Attributor) - {Attributor.MAGNITUDE, Attributor.RANDOM})


def compute(
    model: LlamaForCausalLM, attributor: Attributor, seed: int = 3
) -> tuple[ContrastiveRelevance, int]:
    counts: list[int] = []
    found = compute_contrastive_relevance(
        model,
        LLAMA,
        attributor,
        draw_samples(GENERAL, 1),
        draw_samples(UNDESIRED, 2),
        pad_id=0,
        seed=seed,
        advance=counts.append,
    )
    return found, sum(counts)


def assert_equal(left: ContrastiveRelevance, right: ContrastiveRelevance) -> None:
    for one, other in ((left.general, right.general), (left.undesired, right.undesired)):
        assert (one.tokens, one.samples) == (other.tokens, other.samples)
        assert tuple(one.mean) == tuple(other.mean)
        for name in one.mean:
            assert torch.equal(one.mean[name], other.mean[name])
            assert torch.equal(one.mean_absolute[name], other.mean_absolute[name])
            assert torch.equal(one.mean_square[name], other.mean_square[name])


@every_attributor
def test_each_attributor_covers_every_neuron(
    model: LlamaForCausalLM, attributor: Attributor
) -> None:
    found, advanced = compute(model, attributor)
    assert advanced == len(GENERAL) + len(UNDESIRED)
    for side, lengths in ((found.general, GENERAL), (found.undesired, UNDESIRED)):
        if attributor in NEEDS_SAMPLES:
            assert (side.tokens, side.samples) == (sum(map(sum, lengths)), len(lengths))
        for values in (side.mean, side.mean_absolute, side.mean_square):
            assert tuple(values) == MODULES
            for value in values.values():
                assert value.shape == (NEURONS,)
                assert torch.isfinite(value).all()
                assert value.any()


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
