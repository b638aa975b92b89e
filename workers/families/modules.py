"""Finding a model's family, and the modules that its description names."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from excise.names import Granularity
from workers.families.catalogue import FAMILIES
from workers.families.description import Family

EXPERT_INPUTS, EXPERT_OUTPUTS = "gate_up_proj", "down_proj"
"""Names of fused experts' parameters: `(expert, 2 · feature, hidden)`, whose outputs are gates and
then up projections, and `(expert, hidden, feature)`."""


class UnsupportedArchitectureError(ValueError):
    """The model's architecture is not described here; use one of the supported ones."""


class UnsupportedGranularityError(ValueError):
    """The family does not support this granularity; choose one that it supports."""


def find_family(model: nn.Module) -> Family:
    """Return the family of `model`, by its configuration's `architectures`.

    Raises `UnsupportedArchitectureError`, which names the supported architectures or the setting
    in which this model differs from its family.
    """
    config = getattr(model, "config", None)
    named = tuple(getattr(config, "architectures", None) or (type(model).__name__,))
    for family in FAMILIES:
        if any(architecture in family.architectures for architecture in named):
            _check_requirements(config, family)
            return family
    supported = ", ".join(sorted(name for family in FAMILIES for name in family.architectures))
    raise UnsupportedArchitectureError(
        f"architecture {', '.join(named)} is not supported; supported: {supported}. "
        "docs/guides/families.md says how to describe another"
    )


def _check_requirements(config: object, family: Family) -> None:
    for requirement in family.requirements:
        value = getattr(config, requirement.setting, requirement.allowed[0])
        if value not in requirement.allowed:
            raise UnsupportedArchitectureError(
                f"{family.name} with {requirement.setting}={value!r} is not supported: "
                f"{requirement.otherwise}, which no rule covers; "
                f"supported: {requirement.setting}={requirement.allowed[0]!r} "
                "(docs/guides/families.md)"
            )


def check_granularity(family: Family, granularity: Granularity) -> None:
    """Raise `UnsupportedGranularityError` unless the family has such components."""
    if granularity not in family.granularities:
        supported = ", ".join(sorted(family.granularities))
        raise UnsupportedGranularityError(
            f"{family.name} has no {granularity} components here; choose one of: {supported}"
        )


def count_layers(model: nn.Module, family: Family) -> int:
    """Return the number of decoder layers."""
    layers = model.get_submodule(family.layers)
    if not isinstance(layers, nn.ModuleList):
        raise TypeError(f"{family.layers} is a {type(layers).__name__}, not a ModuleList")
    return len(layers)


def find_layer_numbers(modules: Iterable[str], family: Family) -> dict[str, int]:
    """Return module name → number of its decoder layer, from 0, in the given order."""
    prefix = f"{family.layers}."
    return {name: int(name.removeprefix(prefix).split(".", 1)[0]) for name in modules}


def find_mlp_outputs(model: nn.Module, family: Family) -> dict[str, nn.Module]:
    """Return module name → MLP output projection, in layer order.

    In a mixture of experts, the name is that of the fused parameter and the module is the one that
    holds it.
    """
    if family.experts is None:
        return _find_in_layers(model, family, family.mlp_output)
    found = {}
    for layer in range(count_layers(model, family)):
        base = f"{family.layers}.{layer}"
        experts = model.get_submodule(f"{base}.{family.experts}")
        fused_weight(experts)  # raises if the description does not fit
        found[f"{base}.{family.mlp_output}"] = experts
    return found


def find_attention_outputs(model: nn.Module, family: Family) -> dict[str, nn.Module]:
    """Return module name → attention output projection, in layer order."""
    return _find_in_layers(model, family, family.attention_output)


def find_linear_modules(model: nn.Module, family: Family) -> dict[str, nn.Module]:
    """Return module name → linear module in the decoder layers, without embeddings and head."""
    layers = model.get_submodule(family.layers)
    return {
        f"{family.layers}.{name}": module
        for name, module in layers.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }


def find_weight_modules(model: nn.Module, family: Family) -> dict[str, nn.Module]:
    """Return name → module that holds the matrix of that name inside the decoder layers.

    Linear modules, and the experts of a mixture for each of their fused parameters. Routers are
    left out: which experts they choose is no sum of what their weights do.
    """
    linear = find_linear_modules(model, family)
    if family.experts is None:
        return linear
    found: dict[str, nn.Module] = {}
    for layer in range(count_layers(model, family)):
        base = f"{family.layers}.{layer}."
        found |= {name: module for name, module in linear.items() if name.startswith(base)}
        experts = model.get_submodule(base + family.experts)
        for parameter in (EXPERT_INPUTS, EXPERT_OUTPUTS):
            fused_weight(experts, parameter)  # raises where the description does not fit
            found[f"{base}{family.experts}.{parameter}"] = experts
    return found


def find_components(
    model: nn.Module, family: Family, granularity: Granularity
) -> dict[str, nn.Module]:
    """Return module name → module that holds the components of `granularity`.

    Raises `UnsupportedGranularityError`.
    """
    check_granularity(family, granularity)
    if granularity is Granularity.WEIGHT:
        return find_weight_modules(model, family)
    if granularity is Granularity.HEAD:
        return find_attention_outputs(model, family)
    return find_mlp_outputs(model, family)


def count_components(model: nn.Module, family: Family, granularity: Granularity) -> dict[str, int]:
    """Return module name → number of components. Raises `UnsupportedGranularityError`."""
    modules = find_components(model, family, granularity)
    if granularity is Granularity.HEAD:
        return dict.fromkeys(modules, count_heads(model))
    if granularity is Granularity.WEIGHT:
        return {name: named_weight(module, name).numel() for name, module in modules.items()}
    return {name: count_features(module) for name, module in modules.items()}


def count_heads(model: nn.Module) -> int:
    """Return the number of query heads per layer."""
    return int(model.config.num_attention_heads)  # type: ignore[union-attr, arg-type]


def find_context_length(model: nn.Module) -> int:
    """Return the model's context length in tokens."""
    return int(model.config.max_position_embeddings)  # type: ignore[union-attr, arg-type]


def head_weight(model: nn.Module, family: Family) -> torch.Tensor:
    """Return the unembedding matrix, `(vocabulary, hidden)`."""
    weight = model.get_submodule(family.head).weight
    if not isinstance(weight, torch.Tensor):
        raise TypeError(f"{family.head} has no weight")
    return weight


def is_linear(module: nn.Module) -> bool:
    """Return whether the module is a linear module with a 2-D weight of its own."""
    return isinstance(module, nn.Linear | Conv1D)


def is_transposed(module: nn.Module) -> bool:
    """Return whether the weight is stored `(input, output)`, as in GPT-2."""
    return isinstance(module, Conv1D)


def count_features(module: nn.Module) -> int:
    """Return the number of input features of a linear module, or of all fused experts together."""
    if isinstance(module, nn.Linear):
        return module.in_features
    if isinstance(module, Conv1D):
        return int(module.nx)
    return _count_expert_inputs(fused_weight(module))


def count_matrix_inputs(module: nn.Module, name: str) -> int:
    """Return the number of input features of the matrix called `name`; with experts, of all."""
    if is_linear(module):
        return count_features(module)
    return _count_expert_inputs(named_weight(module, name))


def _count_expert_inputs(weight: torch.Tensor) -> int:
    return weight.shape[0] * weight.shape[2]


def linear_weight(module: nn.Module) -> torch.Tensor:
    """Return a linear module's weight as stored. Raises `TypeError` for any other module."""
    if not isinstance(module, nn.Linear | Conv1D):
        raise TypeError(f"a {type(module).__name__} is not a linear module")
    return module.weight


def named_weight(module: nn.Module, name: str) -> torch.Tensor:
    """Return the matrix called `name` that `module` holds, as stored.

    A linear module's `(output, input)` or transposed, whatever its name; of experts the fused
    parameter that the name ends with, `(expert, output, input)`. Raises `TypeError` for another
    module.
    """
    if is_linear(module):
        return linear_weight(module)
    return fused_weight(module, name.rpartition(".")[2])


def fused_weight(module: nn.Module, parameter: str = EXPERT_OUTPUTS) -> torch.Tensor:
    """Return one of the experts' fused parameters `(expert, output, input)`.

    Raises `TypeError` for a module without it.
    """
    weight = getattr(module, parameter, None)
    if not isinstance(weight, torch.Tensor) or weight.dim() != 3:
        raise TypeError(f"a {type(module).__name__} holds no fused experts")
    return weight


def _find_in_layers(model: nn.Module, family: Family, path: str) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    for layer in range(count_layers(model, family)):
        name = f"{family.layers}.{layer}.{path}"
        module = model.get_submodule(name)
        if not isinstance(module, nn.Linear | Conv1D):
            raise TypeError(f"{name} is a {type(module).__name__}, not a linear module")
        found[name] = module
    return found
