"""Relevance of whole two-layer models of every dense family against the slow reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from excise.names import Attributor, Granularity
from tests.reference.slow_decoder import SlowDecoder
from tests.reference.slow_families import build_slow_decoder, find_weight_relevance
from tests.tiny import as_loaded
from tests.tiny_families import DENSE, build_family_model
from workers.attribution.attribution import Attribution
from workers.attribution.attributors import compute_relevance
from workers.attribution.sums import ALL_STATISTICS
from workers.attribution.targets import Target
from workers.domain import Relevance, TokenSequence
from workers.families import (
    find_attention_outputs,
    find_family,
    find_linear_modules,
    find_mlp_outputs,
    head_weight,
)

every_family = pytest.mark.parametrize("name", DENSE)
SAMPLES = [
    TokenSequence((3, 14, 15, 9, 2), (6, 5, 35, 8)),
    TokenSequence((71, 8, 28), (18, 28)),
]
TOKENS = sum(len(sample.token_ids) for sample in SAMPLES)


def explain_slowly(name: str, model: Any, sample: TokenSequence, target: Target) -> SlowDecoder:
    """The slow decoder after its backward pass, for the same target."""
    ids = list(sample.token_ids)
    decoder, first = build_slow_decoder(name, model, ids)
    hidden = decoder.forward(first)
    head = head_weight(model, find_family(model)).detach()
    relevance = torch.zeros_like(hidden)
    for position in range(len(sample.prompt_ids) - 1, len(ids) - 1):
        logits = hidden[position] @ head.T
        if target is Target.TOP_LOGIT:
            direction = head[logits.argmax()]
        else:
            emitted = ids[position + 1]
            logits[emitted] = -torch.inf
            direction = head[emitted] - head[logits.argmax()]
        relevance[position] = hidden[position] * direction
    decoder.backward(relevance)
    return decoder


def attribute(model: Any, granularity: Granularity, target: Target) -> Relevance:
    return compute_relevance(
        as_loaded(model),
        Attribution(Attributor.ATTNLRP, granularity, target, statistics=ALL_STATISTICS),
        SAMPLES,
    )


def assert_close(found: Tensor, expected: Tensor, rtol: float = 1e-4) -> None:
    scale = float(expected.abs().max())
    assert scale > 0
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=scale * 2e-6)


def assert_statistics(found: Relevance, module: str, per_token: Tensor) -> None:
    assert_close(found.mean[module], per_token.mean(0))
    assert_close(found.mean_absolute[module], per_token.abs().mean(0))
    assert_close(found.mean_square[module], per_token.square().mean(0))


@every_family
@pytest.mark.parametrize("target", [Target.TOP_LOGIT, Target.EMITTED_MINUS_RUNNER_UP])
def test_relevance_agrees_with_the_slow_reference(name: str, target: Target) -> None:
    model = build_family_model(name, seed=5).double()
    family = find_family(model)
    slow = [explain_slowly(name, model, sample, target) for sample in SAMPLES]
    neurons = attribute(model, Granularity.NEURON, target)
    heads = attribute(model, Granularity.HEAD, target)
    weights = attribute(model, Granularity.WEIGHT, target)
    assert neurons.tokens == heads.tokens == weights.tokens == TOKENS
    for index, module in enumerate(find_mlp_outputs(model, family)):
        per_token = torch.cat([decoder.layers[index].neuron_relevance for decoder in slow])
        assert_statistics(neurons, module, per_token)
    for index, module in enumerate(find_attention_outputs(model, family)):
        per_token = torch.cat([decoder.layers[index].head_relevance for decoder in slow])
        assert_statistics(heads, module, per_token)
    seen = set()
    for index in range(2):
        parts = [find_weight_relevance(name, decoder, index) for decoder in slow]
        for path in parts[0]:
            module = f"{family.layers}.{index}.{path}"
            seen.add(module)
            assert_close(weights.mean[module], sum(part[path] for part in parts) / TOKENS)
    assert seen == set(find_linear_modules(model, family))


@every_family
def test_the_slow_forward_pass_is_the_model(name: str) -> None:
    model = build_family_model(name, seed=5).double()
    ids = [3, 14, 15, 9, 2, 6, 5, 35, 8]
    decoder, first = build_slow_decoder(name, model, ids)
    backbone = model.get_submodule(find_family(model).backbone)
    with torch.no_grad():
        expected = backbone(torch.tensor([ids]), use_cache=False).last_hidden_state[0]
    # transformers computes some norms in float32 even in a float64 model
    torch.testing.assert_close(decoder.forward(first), expected, rtol=1e-5, atol=1e-5)
