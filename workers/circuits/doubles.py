"""Stand-ins for functions of workers.families until they are merged."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import torch
from torch import nn

from workers.families import Family, count_layers


def count_features(module: nn.Module) -> int:
    """Return the input features."""
    return int(module.in_features)  # type: ignore[arg-type]


def is_transposed(module: nn.Module) -> bool:  # noqa: ARG001
    """Return whether the weight is stored `(in, out)`."""
    return False


def count_heads(model: Any) -> int:
    """Return the query heads."""
    return int(model.config.num_attention_heads)


def find_attention_outputs(model: nn.Module, family: Family) -> dict[str, nn.Module]:
    """Return module name → attention output projection."""
    names = [
        f"{family.layers}.{layer}.self_attn.o_proj" for layer in range(count_layers(model, family))
    ]
    return {name: model.get_submodule(name) for name in names}


def find_linear_modules(model: nn.Module, family: Family) -> dict[str, nn.Module]:
    """Return module name → linear module of the decoder layers."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(family.layers)
    }


def linear_weight(module: nn.Module) -> torch.Tensor:
    """Return the weight."""
    assert isinstance(module.weight, torch.Tensor)
    return module.weight


class Attributor(StrEnum):
    """What relevance is computed by."""

    ATTNLRP = "attnlrp"
    CP_LRP = "cp_lrp"
    GRADIENT_X_INPUT = "gradient_x_input"
    WANDA = "wanda"
    ACTIVATION = "activation"
    MAGNITUDE = "magnitude"
    RANDOM = "random"
