"""Looking up, in a loaded model, the weight that a selection or patch names."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D


class NamedWeight(NamedTuple):
    """A linear module's weight, or one of the parameters of a layer's fused experts."""

    module: nn.Module | None
    """The linear module; None for fused experts, which are a parameter without a module."""
    weight: torch.Tensor
    """The weight as stored, detached: `(output, input)`, `(expert, output, input)`, or either
    with its last two axes swapped."""
    is_transposed: bool


def find_weight(model: nn.Module, name: str) -> NamedWeight:
    """Return the weight of the module `name`, or the fused experts' parameter of that name.

    Raises `ValueError` for a module that is absent or not linear.
    """
    try:
        module = model.get_submodule(name)
    except AttributeError:
        return _find_experts(model, name)
    if not isinstance(module, nn.Linear | Conv1D):
        raise ValueError(f"{name} is a {type(module).__name__}, not a linear module")
    return NamedWeight(module, module.weight.detach(), isinstance(module, Conv1D))


def _find_experts(model: nn.Module, name: str) -> NamedWeight:
    """Return a fused parameter of experts, `(expert, out, in)` or transposed."""
    path, _, parameter_name = name.rpartition(".")
    try:
        parent = model.get_submodule(path)
    except AttributeError as error:
        raise ValueError(f"the model has no module {name}") from error
    parameter = dict(parent.named_parameters(recurse=False)).get(parameter_name)
    if parameter is None or parameter.ndim != 3:
        raise ValueError(f"the model has no module {name}")
    return NamedWeight(None, parameter.detach(), bool(getattr(parent, "is_transposed", False)))
