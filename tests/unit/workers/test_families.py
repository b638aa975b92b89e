"""Descriptions of architectures: found by configuration, and true of the model they describe."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from excise.names import Granularity
from tests.tiny import HIDDEN, MODULES, NEURONS, VOCABULARY
from tests.tiny_families import DENSE, MIXTURES, SETTINGS, build_family_model
from workers.domain import TokenSequence
from workers.families import (
    FAMILIES,
    LLAMA,
    FusedProjection,
    UnsupportedArchitectureError,
    UnsupportedGranularityError,
    count_components,
    count_features,
    count_heads,
    count_layers,
    find_attention_outputs,
    find_components,
    find_family,
    find_layer_numbers,
    find_linear_modules,
    find_mlp_outputs,
    find_weight_modules,
    fused_weight,
    head_weight,
    is_transposed,
    linear_weight,
    named_weight,
)

every_family = pytest.mark.parametrize("name", SETTINGS)
every_dense_family = pytest.mark.parametrize("name", DENSE)
every_mixture = pytest.mark.parametrize("name", MIXTURES)


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


# --- every family --------------------------------------------------------------------------


def test_every_description_has_a_tiny_model() -> None:
    found = {find_family(build_family_model(name)).name for name in SETTINGS}
    assert found == {family.name for family in FAMILIES}
    architectures = [name for family in FAMILIES for name in family.architectures]
    assert len(architectures) == len(set(architectures))


@every_family
def test_every_path_of_every_description_exists(name: str) -> None:
    model = build_family_model(name)
    family = find_family(model)
    for path in (family.backbone, family.layers, family.final_norm, family.head):
        model.get_submodule(path)
    attention = family.attention
    if isinstance(attention, FusedProjection):
        projections = (attention.path,)
    else:
        projections = (attention.query, attention.key, attention.value)
    for layer in range(count_layers(model, family)):
        block = model.get_submodule(f"{family.layers}.{layer}")
        for path in (*family.layer_norms, *projections):
            block.get_submodule(path)
        for path in (family.attention_output, family.activation):
            block.get_submodule(path)


@every_family
def test_a_description_names_every_norm_and_activation(name: str) -> None:
    model = build_family_model(name)
    family = find_family(model)
    block = model.get_submodule(f"{family.layers}.0")
    norms = {path for path, module in block.named_modules() if "Norm" in type(module).__name__}
    assert norms == set(family.layer_norms)
    kinds = ("Activation", "SiLU", "GELU", "ReLU")
    active = {
        path
        for path, module in block.named_modules()
        if any(kind in type(module).__name__ for kind in kinds)
    }
    assert family.activation in active
    assert len(active) == 1


@every_dense_family
def test_components_are_counted(name: str) -> None:
    model = build_family_model(name)
    family = find_family(model)
    assert count_heads(model) == 4
    neurons = count_components(model, family, Granularity.NEURON)
    assert list(neurons) == list(find_mlp_outputs(model, family))
    assert set(neurons.values()) == {48}
    heads = count_components(model, family, Granularity.HEAD)
    assert list(heads) == list(find_attention_outputs(model, family))
    assert set(heads.values()) == {4}
    weights = count_components(model, family, Granularity.WEIGHT)
    linear = find_linear_modules(model, family)
    assert weights == {path: module.weight.numel() for path, module in linear.items()}
    assert set(neurons) | set(heads) <= set(weights)
    outside = {id(head_weight(model, family)), id(model.get_input_embeddings().weight)}
    assert not outside & {id(module.weight) for module in linear.values()}


@every_family
def test_no_matrix_of_a_layer_is_left_out_but_the_router(name: str) -> None:
    model = build_family_model(name)
    family = find_family(model)
    layers = model.get_submodule(family.layers)
    matrices = {
        id(parameter)
        for path, parameter in layers.named_parameters()
        if parameter.dim() > 1 and not path.endswith("mlp.gate.weight")
    }
    modules = find_weight_modules(model, family)
    found = [named_weight(module, path) for path, module in modules.items()]
    assert {id(weight) for weight in found} == matrices
    assert len(found) == len(matrices)
    counts = count_components(model, family, Granularity.WEIGHT)
    assert list(counts.values()) == [weight.numel() for weight in found]


@every_family
def test_the_output_projections_feed_the_hidden_states(name: str) -> None:
    model = build_family_model(name)
    family = find_family(model)
    for module in find_attention_outputs(model, family).values():
        assert count_features(module) % count_heads(model) == 0
        assert linear_weight(module).numel() == count_features(module) * 32
        assert is_transposed(module) is (name == "gpt2")


@every_family
def test_every_component_belongs_to_the_layer_it_lies_in(name: str) -> None:
    model = build_family_model(name)
    family = find_family(model)
    for granularity in family.granularities:
        modules = list(find_components(model, family, granularity))
        numbers = find_layer_numbers(modules, family)
        assert list(numbers) == modules
        assert set(numbers.values()) == set(range(count_layers(model, family)))
        for module, number in numbers.items():
            assert module.startswith(f"{family.layers}.{number}.")


def test_layer_numbers_of_two_digits_and_numbers_further_in_are_told_apart() -> None:
    names = ["model.layers.12.mlp.down_proj", "model.layers.1.mlp.experts.3.down_proj"]
    assert find_layer_numbers(names, LLAMA) == {names[0]: 12, names[1]: 1}
    assert list(find_layer_numbers(reversed(names), LLAMA)) == names[::-1]
    assert find_layer_numbers([], LLAMA) == {}
    with pytest.raises(ValueError, match="invalid literal"):
        find_layer_numbers(["lm_head"], LLAMA)


@every_mixture
def test_the_neurons_of_experts_are_flat(name: str) -> None:
    model = build_family_model(name)
    family = find_family(model)
    for path, experts in find_mlp_outputs(model, family).items():
        weight = model.get_parameter(path)
        assert fused_weight(experts) is weight
        assert count_features(experts) == weight.shape[0] * weight.shape[2]


@every_mixture
def test_the_weights_of_experts_come_after_the_attention_s_of_their_layer(name: str) -> None:
    model = build_family_model(name)
    family = find_family(model)
    found = list(find_components(model, family, Granularity.WEIGHT))
    ends = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"]
    ends += ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    assert found == [f"model.layers.{layer}.{end}" for layer in range(2) for end in ends]
    modules = find_weight_modules(model, family)
    read, written = (named_weight(modules[path], path) for path in found[4:6])
    assert (read.dim(), written.dim()) == (3, 3)
    assert (read.shape[0], read.shape[2]) == (4, 32)
    assert (written.shape[1], 2 * written.shape[2]) == (32, read.shape[1])


def test_a_granularity_that_a_family_leaves_out_is_refused(model: LlamaForCausalLM) -> None:
    family = replace(LLAMA, granularities=frozenset({Granularity.NEURON, Granularity.HEAD}))
    with pytest.raises(UnsupportedGranularityError, match="choose one of: head, neuron"):
        count_components(model, family, Granularity.WEIGHT)


def test_what_holds_no_matrix_of_that_name_is_refused(model: LlamaForCausalLM) -> None:
    layer = model.get_submodule("model.layers.0.mlp")
    with pytest.raises(TypeError, match="LlamaMLP holds no fused experts"):
        named_weight(layer, "model.layers.0.mlp.gate_up_proj")


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("opt", {"do_layer_norm_before": False}, "do_layer_norm_before=False.*follow the residual"),
        ("opt", {"_remove_final_layer_norm": True}, "no final norm"),
        ("gemma3_text", {"attn_logit_softcapping": 50.0}, "attention scores pass a tanh"),
        ("gemma3_text", {"final_logit_softcapping": 30.0}, "logits pass a tanh"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "not causal"),
        ("gpt2", {"add_cross_attention": True}, "attend to an encoder"),
        ("qwen3_moe", {"decoder_sparse_step": 2}, "some layers have no experts"),
        ("qwen3_moe", {"mlp_only_layers": [0]}, "some layers have no experts"),
    ],
)
def test_a_variant_that_no_rule_covers_is_refused(name: str, change: dict, said: str) -> None:
    model = build_family_model(name)
    for setting, value in change.items():
        setattr(model.config, setting, value)
    with pytest.raises(UnsupportedArchitectureError, match=f"{said}.*families.md"):
        find_family(model)
