"""Descriptions of architectures: found by configuration, and true of the model they describe."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from tests.tiny import HIDDEN, MODULES, NEURONS, VOCABULARY
from workers.domain import TokenSequence
from workers.families import (
    LLAMA,
    UnsupportedArchitectureError,
    count_layers,
    find_family,
    find_mlp_outputs,
    head_weight,
)


def test_a_model_is_recognised_by_its_class_or_its_configuration(model: LlamaForCausalLM) -> None:
    model.config.architectures = None
    assert find_family(model) is LLAMA
    model.config.architectures = ["LlamaForCausalLM"]
    assert find_family(model) is LLAMA


def test_an_unknown_architecture_is_refused_with_the_known_ones(model: LlamaForCausalLM) -> None:
    model.config.architectures = ["MambaForCausalLM"]
    with pytest.raises(
        UnsupportedArchitectureError, match=r"Mamba.*supported: .*LlamaForCausalLM.*families\.md"
    ):
        find_family(model)
    with pytest.raises(UnsupportedArchitectureError, match="Linear"):
        find_family(nn.Linear(2, 2))


def test_the_projections_come_in_layer_order(model: LlamaForCausalLM) -> None:
    outputs = find_mlp_outputs(model, LLAMA)
    assert tuple(outputs) == MODULES
    for name, module in outputs.items():
        assert module is model.get_submodule(name)
        assert (module.in_features, module.out_features) == (NEURONS, HIDDEN)
    assert count_layers(model, LLAMA) == 2


def test_the_head_is_the_unembedding(model: LlamaForCausalLM) -> None:
    weight = head_weight(model, LLAMA)
    assert weight is model.lm_head.weight
    assert weight.shape == (VOCABULARY, HIDDEN)


def test_every_path_of_the_description_exists(model: LlamaForCausalLM) -> None:
    for path in (LLAMA.backbone, LLAMA.layers, LLAMA.final_norm, LLAMA.head):
        model.get_submodule(path)
    block = model.get_submodule(f"{LLAMA.layers}.0")
    own = (LLAMA.attention_output, LLAMA.activation, LLAMA.mlp_output)
    for path in (*LLAMA.layer_norms, *own):
        block.get_submodule(path)


@pytest.mark.parametrize(
    ("change", "call"),
    [
        ({"layers": "model"}, count_layers),
        ({"mlp_output": "mlp"}, find_mlp_outputs),
        ({"head": "model.layers"}, head_weight),
    ],
    ids=["layers", "projection", "head"],
)
def test_a_description_that_does_not_fit_is_refused(model, change, call) -> None:
    with pytest.raises((TypeError, AttributeError)):
        call(model, replace(LLAMA, **change))


def test_a_sequence_is_its_prompt_then_its_response() -> None:
    assert TokenSequence((1, 2), (3,)).token_ids == (1, 2, 3)
    assert TokenSequence((1, 2)).token_ids == (1, 2)


def test_the_tiny_model_is_seeded(model: LlamaForCausalLM) -> None:
    state = torch.get_rng_state()
    from tests.tiny import build_tiny_model

    again = build_tiny_model()
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(again.lm_head.weight, model.lm_head.weight)
    assert not torch.equal(build_tiny_model(1).lm_head.weight, model.lm_head.weight)
