"""Relevance of a whole two-layer Llama against the slow reference."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.reference.slow_llama import SlowLlama
from workers.attribution.attributors import Attributor, compute_relevance
from workers.attribution.targets import Target
from workers.domain import Granularity, TokenSequence
from workers.families import find_family


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=64,
        initializer_range=0.3,
        architectures=["LlamaForCausalLM"],
    )
    return LlamaForCausalLM(config).double().eval()


def slow_relevance(model, sample: TokenSequence, target: Target):
    """Neuron relevance per token from the slow reference, for the same target."""
    slow = SlowLlama.from_model(model)
    ids = list(sample.token_ids)
    hidden = slow.forward(ids)
    head = slow.state["lm_head.weight"]
    relevance = torch.zeros_like(hidden)
    for position in range(max(len(sample.prompt_ids) - 1, 0), len(ids) - 1):
        logits = hidden[position] @ head.T
        if target is Target.TOP_LOGIT:
            direction = head[logits.argmax()]
        else:
            emitted = ids[position + 1]
            logits[emitted] = -torch.inf
            direction = head[emitted] - head[logits.argmax()]
        relevance[position] = hidden[position] * direction
    slow.backward(relevance)
    return slow


@pytest.mark.parametrize("target", [Target.TOP_LOGIT, Target.EMITTED_MINUS_RUNNER_UP])
def test_neuron_relevance_agrees_with_the_slow_reference(model, target):
    samples = [
        TokenSequence((3, 14, 15, 9, 2), (6, 5, 35, 8)),
        TokenSequence((71, 8, 28), (18, 28)),
    ]
    family = find_family(model)
    fast = compute_relevance(
        model, family, Attributor.ATTNLRP, Granularity.NEURON, samples, target, 0, batch_tokens=64
    )
    slows = [slow_relevance(model, sample, target) for sample in samples]
    tokens = sum(len(sample.token_ids) for sample in samples)
    assert fast.tokens == tokens
    for name in fast.mean:
        per_token = torch.cat([slow.neuron_relevance[name] for slow in slows])
        mean, absolute = per_token.mean(0), per_token.abs().mean(0)
        scale = absolute.max()
        torch.testing.assert_close(
            fast.mean[name].double(), mean, rtol=1e-4, atol=float(scale) * 1e-6
        )
        torch.testing.assert_close(
            fast.mean_absolute[name].double(), absolute, rtol=1e-4, atol=float(scale) * 1e-6
        )


def test_the_slow_forward_pass_is_the_model(model):
    ids = [3, 14, 15, 9, 2, 6]
    with torch.no_grad():
        expected = model.model(torch.tensor([ids])).last_hidden_state[0]
    # transformers computes rotary angles in float32 even in a float64 model
    torch.testing.assert_close(
        SlowLlama.from_model(model).forward(ids), expected, rtol=1e-5, atol=1e-5
    )
