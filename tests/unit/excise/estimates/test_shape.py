"""A model's shape from its config.json, against the models themselves."""

from __future__ import annotations

import pytest

from excise.estimates.shape import ModelShape, ShapeError
from excise.names import ComputeDtype
from tests import shapes
from tests.tiny_families import SETTINGS, build_family_model
from workers.families import find_family, find_linear_modules, linear_weight

LLAMA_8B = shapes.LLAMA_8B | {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": False}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_weights_are_those_of_the_model(name: str) -> None:
    model = build_family_model(name)
    shape = ModelShape.of(model.config.to_dict() | {"architectures": [type(model).__name__]})
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    positions = [
        parameter
        for parameter_name, parameter in model.named_parameters()
        if "wpe" in parameter_name or "embed_positions" in parameter_name
    ]
    routers = [
        parameter
        for parameter_name, parameter in model.named_parameters()
        if parameter_name.endswith(("gate.weight", "router.weight")) and parameter.dim() > 1
    ]
    expected = sum(map(_count, matrices)) - sum(map(_count, [*positions, *routers]))
    assert shape.parameters == expected
    if shape.experts == 1:
        linear = find_linear_modules(model, find_family(model)).values()
        assert shape.linear_weights == sum(linear_weight(module).numel() for module in linear)
    # By kind, too: a matrix too few in the MLP can be as large as keys and values too many.
    assert shape.mlp_matrices == 2 + find_family(model).mlp_product


@pytest.mark.parametrize("name", SETTINGS)
def test_a_config_that_does_not_say_whether_the_head_is_tied_means_what_transformers_means(
    name: str,
) -> None:
    model = build_family_model(name)
    config = model.config.to_dict() | {"architectures": [type(model).__name__]}
    del config["tie_word_embeddings"]
    assert ModelShape.of(config).is_tied == type(model.config)().tie_word_embeddings


def _count(parameter) -> int:
    return parameter.numel()


def test_llama_3_has_eight_billion_weights() -> None:
    shape = ModelShape.of(LLAMA_8B)
    assert shape.parameters == pytest.approx(8.03e9, rel=0.001)
    assert shape.count_bytes(ComputeDtype.BFLOAT16) == 2 * shape.parameters
    assert shape.count_cache_bytes(1, ComputeDtype.BFLOAT16) == 2 * 32 * 8 * 128 * 2


def test_a_config_without_a_size_is_refused() -> None:
    with pytest.raises(ShapeError, match="gives no hidden_size or n_embd"):
        ModelShape.of({"num_attention_heads": 4})


@pytest.mark.parametrize("value", ["many", 0, -3, True, 2.5, 10**400, None, [4]])
def test_what_is_no_count_is_left_out(value: object) -> None:
    shape = ModelShape.of(LLAMA_8B | {"head_dim": value, "num_key_value_heads": value})
    assert (shape.head_dim, shape.kv_heads) == (128, 32)
    with pytest.raises(ShapeError, match="num_hidden_layers"):
        ModelShape.of(LLAMA_8B | {"num_hidden_layers": value})
