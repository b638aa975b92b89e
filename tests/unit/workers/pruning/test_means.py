"""Mean activations: those of every token, whatever the batches, and no hook left behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from excise.names import Granularity
from tests.tiny import HIDDEN, MODULES, NEURONS, as_loaded, draw_samples
from workers.domain import TokenSequence
from workers.families import LLAMA, find_components
from workers.pruning.means import compute_mean_inputs

SAMPLES = draw_samples(((9, 0), (3, 4), (1, 0), (9, 2)), 3)
ATTENTION = tuple(f"model.layers.{layer}.self_attn.o_proj" for layer in range(2))
SIZES = {Granularity.NEURON: (MODULES, NEURONS), Granularity.HEAD: (ATTENTION, HIDDEN)}


def record_alone(
    model: LlamaForCausalLM, module: str, samples: list[TokenSequence]
) -> torch.Tensor:
    """Every token's input of a module, `(token, feature)`, one sample at a time, without pads."""
    rows: list[torch.Tensor] = []

    def keep(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        rows.append(inputs[0][0])

    handle = model.get_submodule(module).register_forward_pre_hook(keep)
    with torch.no_grad():
        for sample in samples:
            model(torch.tensor([sample.token_ids]), use_cache=False)
    handle.remove()
    return torch.cat(rows)


def compute_means(
    model: LlamaForCausalLM,
    granularity: Granularity = Granularity.NEURON,
    samples: Sequence[TokenSequence] = SAMPLES,
    pad_id: int = 0,
    **options: int,
) -> dict[str, torch.Tensor]:
    modules = find_components(model, LLAMA, granularity)
    return compute_mean_inputs(as_loaded(model, pad_id=pad_id), modules, samples, **options)


def list_hooks(model: nn.Module) -> list[Any]:
    return [
        hook
        for module in model.modules()
        for hooks in (module._forward_pre_hooks, module._forward_hooks)
        for hook in hooks.values()
    ]


@pytest.mark.parametrize("granularity", [Granularity.NEURON, Granularity.HEAD])
@pytest.mark.parametrize("batch_tokens", [1, 10, 2048])
def test_the_means_are_over_every_token_alone(
    model: LlamaForCausalLM, granularity: Granularity, batch_tokens: int
) -> None:
    modules, size = SIZES[granularity]
    found = compute_means(model, granularity, pad_id=5, batch_tokens=batch_tokens)
    assert tuple(found) == modules
    for name, mean in found.items():
        rows = record_alone(model, name, SAMPLES)
        assert len(rows) == 28
        assert mean.shape == (size,)
        assert mean.dtype is torch.float32
        torch.testing.assert_close(mean, rows.mean(dim=0), rtol=1e-4, atol=1e-5)


def test_sums_are_of_single_precision_whatever_the_model_s(model: LlamaForCausalLM) -> None:
    wide = compute_means(model)
    narrow = compute_means(model.to(torch.bfloat16))
    for name in MODULES:
        assert narrow[name].dtype is torch.float32
        # Means of rounded values are not themselves rounded.
        assert not torch.equal(narrow[name], narrow[name].bfloat16().float())
        torch.testing.assert_close(narrow[name], wide[name], rtol=0.1, atol=0.05)


def test_hooks_leave_no_trace(model: LlamaForCausalLM) -> None:
    compute_means(model)
    assert list_hooks(model) == []


def test_hooks_leave_no_trace_of_a_failure(model: LlamaForCausalLM) -> None:
    beyond = [TokenSequence((1, 2)), TokenSequence((10_000,))]  # no such token
    with pytest.raises(IndexError):
        compute_means(model, samples=beyond)
    assert list_hooks(model) == []


def test_no_samples_have_no_mean(model: LlamaForCausalLM) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        compute_means(model, samples=[])
