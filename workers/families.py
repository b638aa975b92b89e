"""Where a model family keeps its norms, activations, products and projections. Data only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


class UnsupportedArchitectureError(ValueError):
    """The model's architecture has no description here; use one of the supported ones."""


@dataclass(frozen=True)
class Family:
    """Paths of the parts of one transformer family, relative to a decoder layer.

    A path is what `nn.Module.get_submodule` takes.
    """

    name: str
    architectures: tuple[str, ...]
    """Values of `config.architectures` that this description fits."""
    backbone: str
    """The module that returns the last hidden states."""
    layers: str
    """The `ModuleList` of decoder layers."""
    final_norm: str
    head: str
    layer_norms: tuple[str, ...]
    query: str
    key: str
    value: str
    activation: str
    mlp_product: bool
    """True when the MLP multiplies a gate with an up projection before its output."""
    mlp_output: str
    """The linear module whose input features are the MLP's neurons."""


LLAMA = Family(
    name="llama",
    architectures=("LlamaForCausalLM",),
    backbone="model",
    layers="model.layers",
    final_norm="model.norm",
    head="lm_head",
    layer_norms=("input_layernorm", "post_attention_layernorm"),
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    activation="mlp.act_fn",
    mlp_product=True,
    mlp_output="mlp.down_proj",
)

FAMILIES = (LLAMA,)


def find_family(model: nn.Module) -> Family:
    """Return the description that fits `model`, by its configuration's `architectures`.

    Raises `UnsupportedArchitectureError` naming the supported architectures.
    """
    config = getattr(model, "config", None)
    named = tuple(getattr(config, "architectures", None) or (type(model).__name__,))
    for family in FAMILIES:
        if any(architecture in family.architectures for architecture in named):
            return family
    supported = ", ".join(sorted(name for family in FAMILIES for name in family.architectures))
    raise UnsupportedArchitectureError(
        f"architecture {', '.join(named)} is not supported; supported: {supported}"
    )


def count_layers(model: nn.Module, family: Family) -> int:
    """Return the number of decoder layers."""
    layers = model.get_submodule(family.layers)
    if not isinstance(layers, nn.ModuleList):
        raise TypeError(f"{family.layers} is a {type(layers).__name__}, not a ModuleList")
    return len(layers)


def find_mlp_outputs(model: nn.Module, family: Family) -> dict[str, nn.Linear]:
    """Return module name → MLP output projection, in layer order."""
    outputs: dict[str, nn.Linear] = {}
    for layer in range(count_layers(model, family)):
        name = f"{family.layers}.{layer}.{family.mlp_output}"
        module = model.get_submodule(name)
        if not isinstance(module, nn.Linear):
            raise TypeError(f"{name} is a {type(module).__name__}, not a Linear")
        outputs[name] = module
    return outputs


def head_weight(model: nn.Module, family: Family) -> torch.Tensor:
    """Return the unembedding matrix, `(vocabulary, hidden)`."""
    weight = model.get_submodule(family.head).weight
    if not isinstance(weight, torch.Tensor):
        raise TypeError(f"{family.head} has no weight")
    return weight
