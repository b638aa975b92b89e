"""Stand-ins for relevance, against slow loops."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from tests.tiny import MODULES, NEURONS, draw_samples
from workers.attribution.baselines import (
    compute_activation,
    compute_magnitude,
    draw_random_relevance,
)
from workers.batches import build_batches
from workers.families import LLAMA

LENGTHS = ((9, 4), (3, 8), (5, 0), (2, 1))


def observe_neurons(model: nn.Module, token_ids: tuple[int, ...], name: str) -> torch.Tensor:
    kept: list[torch.Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda module, args: kept.append(args[0].detach()[0])
    )
    with torch.no_grad():
        model(torch.tensor([token_ids]), use_cache=False)
    handle.remove()
    return kept[0]


def column_norms(model: nn.Module, name: str) -> torch.Tensor:
    weight = model.get_submodule(name).weight.detach()
    return torch.tensor([float(weight[:, j].pow(2).sum().sqrt()) for j in range(NEURONS)])


@pytest.mark.parametrize("batch_tokens", [1, 30, 1000])
def test_activation_is_what_each_neuron_writes(model: LlamaForCausalLM, batch_tokens: int) -> None:
    samples = draw_samples(LENGTHS)
    found = compute_activation(model, LLAMA, build_batches(samples, batch_tokens, 50))
    assert (found.tokens, found.samples) == (sum(map(sum, LENGTHS)), len(LENGTHS))
    for name in MODULES:
        values = torch.cat([observe_neurons(model, s.token_ids, name) for s in samples])
        expected = values.abs().mean(0) * column_norms(model, name)
        torch.testing.assert_close(found.mean[name], expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(found.mean_absolute[name], found.mean[name])


def test_activation_counts_batches_and_leaves_no_hook(model: LlamaForCausalLM) -> None:
    counts: list[int] = []
    compute_activation(model, LLAMA, build_batches(draw_samples(LENGTHS), 20, 0), counts.append)
    assert sum(counts) == len(LENGTHS)
    assert len(counts) > 1
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_activation_leaves_no_hook_when_the_model_fails(model: LlamaForCausalLM) -> None:
    batches = build_batches(draw_samples([(3, 0)], vocabulary=5), 20, 0)
    model.model.layers[1].mlp.down_proj.weight = nn.Parameter(torch.zeros(3, NEURONS))
    with pytest.raises(RuntimeError):
        compute_activation(model, LLAMA, batches)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_activation_needs_a_token(model: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        compute_activation(model, LLAMA, [])


def test_magnitude_is_the_norm_of_each_output_column(model: LlamaForCausalLM) -> None:
    found = compute_magnitude(model, LLAMA)
    assert (found.tokens, found.samples) == (0, 0)
    for name in MODULES:
        torch.testing.assert_close(found.mean[name], column_norms(model, name))


def test_random_relevance_is_seeded_and_uniform(model: LlamaForCausalLM) -> None:
    state = torch.get_rng_state()
    found = draw_random_relevance(model, LLAMA, 7)
    again, other = draw_random_relevance(model, LLAMA, 7), draw_random_relevance(model, LLAMA, 8)
    assert torch.equal(state, torch.get_rng_state())
    for name in MODULES:
        assert found.mean[name].shape == (NEURONS,)
        assert ((found.mean[name] >= 0) & (found.mean[name] < 1)).all()
        assert torch.equal(found.mean[name], again.mean[name])
        assert not torch.equal(found.mean[name], other.mean[name])
    assert not torch.equal(found.mean[MODULES[0]], found.mean[MODULES[1]])
