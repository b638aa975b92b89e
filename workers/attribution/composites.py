"""Which rule goes where in a model, put on one instance by hooks and undone on exit.

No class, registry or attention function is touched: two models in one process can be
attributed with different rules at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from workers.attribution.rules import apply_identity_rule, apply_rms_norm_rule, scale_gradient
from workers.families import Family, count_layers


@dataclass(frozen=True)
class Composite:
    """The gradient factors and rules of one attribution method.

    Factors multiply the gradient at the output of the query, key and value projections.
    What lies between a projection and the attention product (rotary embedding, repetition
    for grouped queries) is linear, so scaling there equals scaling at the product.
    """

    name: str
    norm_identity: bool
    activation_identity: bool
    product_factor: float
    query_factor: float
    key_factor: float
    value_factor: float


ATTN_LRP = Composite("attnlrp", True, True, 0.5, 0.25, 0.25, 0.5)
"""AttnLRP (arXiv 2402.05602): uniform rule for both attention products, Taylor for softmax."""

CP_LRP = Composite("cp_lrp", True, True, 0.5, 0.0, 0.0, 1.0)
"""CP-LRP: attention weights are constants, so relevance is conserved exactly."""

GRADIENT = Composite("gradient_x_input", False, False, 1.0, 1.0, 1.0, 1.0)
"""Plain gradient × input."""

COMPOSITES = {composite.name: composite for composite in (ATTN_LRP, CP_LRP, GRADIENT)}

_Hook = Callable[..., Any]


@contextmanager
def attribution_rules(model: nn.Module, family: Family, composite: Composite) -> Iterator[None]:
    """Within the context, backward passes through this `model` follow `composite`.

    Parameters receive no gradient inside; their `requires_grad` flags, `.grad` and the
    each module's training mode are as before on exit, whatever happened.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    handles: list[RemovableHandle] = []
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        handles.extend(_register_rules(model, family, composite))
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, training in modes:
            module.training = training  # `train` would set the children's, too


def _register_rules(
    model: nn.Module, family: Family, composite: Composite
) -> Iterator[RemovableHandle]:
    if composite.norm_identity:
        yield model.get_submodule(family.final_norm).register_forward_hook(_norm_hook)
    for layer in range(count_layers(model, family)):
        block = model.get_submodule(f"{family.layers}.{layer}")
        if composite.norm_identity:
            for path in family.layer_norms:
                yield block.get_submodule(path).register_forward_hook(_norm_hook)
        if composite.activation_identity:
            yield block.get_submodule(family.activation).register_forward_hook(_activation_hook)
        if family.mlp_product and composite.product_factor != 1.0:
            yield block.get_submodule(family.mlp_output).register_forward_pre_hook(
                _scale_input_hook(composite.product_factor)
            )
        for path, factor in (
            (family.query, composite.query_factor),
            (family.key, composite.key_factor),
            (family.value, composite.value_factor),
        ):
            if factor != 1.0:
                yield block.get_submodule(path).register_forward_hook(_scale_output_hook(factor))


def _norm_hook(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> Any:
    weight, epsilon = module.weight, module.variance_epsilon
    assert isinstance(weight, torch.Tensor)
    assert isinstance(epsilon, float)
    return apply_rms_norm_rule(args[0], output, weight, epsilon)


def _activation_hook(
    module: nn.Module,  # noqa: ARG001 - torch's signature of a forward hook
    args: tuple[torch.Tensor, ...],
    output: torch.Tensor,
) -> Any:
    return apply_identity_rule(args[0], output)


def _scale_output_hook(factor: float) -> _Hook:
    def hook(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> Any:  # noqa: ARG001
        return scale_gradient(output, factor)

    return hook


def _scale_input_hook(factor: float) -> _Hook:
    def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> Any:  # noqa: ARG001
        return (scale_gradient(args[0], factor), *args[1:])

    return hook
