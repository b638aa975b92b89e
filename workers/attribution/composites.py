"""Composites: which LRP rule applies where in a model, by hooks on one instance, undone on exit.

No class, registry or attention function is changed, so two models in one process can be attributed
with different rules at the same time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from workers.attribution.experts import Rows, transformed_products
from workers.attribution.observation import evaluated
from workers.attribution.rules import (
    apply_identity_rule,
    apply_layer_norm_rule,
    apply_rms_norm_rule,
    scale_feature_gradients,
    scale_gradient,
)
from workers.families import (
    Family,
    FusedLayout,
    FusedProjection,
    Norm,
    count_features,
    find_attention_outputs,
    linear_weight,
)
from workers.models.hooks import Hook, InputHook, OutputHook, hooked
from workers.models.loaded import LoadedModel


@dataclass(frozen=True)
class Composite:
    """The rules and gradient factors of one attribution method.

    The factors of queries, keys and values multiply the gradient at the output of their
    projections. Everything between a projection and the attention product (rotary embedding,
    repetition for grouped queries) is linear, so this equals scaling at the product itself.
    """

    name: str
    norm_identity: bool
    activation_identity: bool
    product_factor: float
    """Factor at the MLP's product of gate and up projection."""
    query_factor: float
    key_factor: float
    value_factor: float
    routed_factor: float
    """Factor at the product of an expert's output and its routing weight, for both."""
    router_factor: float
    """Additional factor at the routing weights, multiplied with `routed_factor`."""


ATTN_LRP = Composite("attnlrp", True, True, 0.5, 0.25, 0.25, 0.5, 0.5, 1.0)
"""AttnLRP (arXiv 2402.05602): uniform rule for both attention products, Taylor rule for softmax."""

CP_LRP = Composite("cp_lrp", True, True, 0.5, 0.0, 0.0, 1.0, 1.0, 0.0)
"""CP-LRP: attention and routing weights are held constant, so relevance is conserved exactly."""

GRADIENT = Composite("gradient_x_input", False, False, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
"""Plain gradient × input."""

COMPOSITES = {composite.name: composite for composite in (ATTN_LRP, CP_LRP, GRADIENT)}

_Hook = Callable[..., Any]


@contextmanager
def attribution_rules(loaded: LoadedModel, composite: Composite) -> Iterator[None]:
    """Within the context, backward passes through this model follow `composite`.

    Parameters receive no gradient inside. On exit, their `requires_grad` flags, their `.grad` and
    each module's training mode are as before, even if the body raises.
    """
    flags = [(parameter, parameter.requires_grad) for parameter in loaded.model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        with ExitStack() as seams, evaluated(loaded.model):
            seams.enter_context(hooked(_list_rules(loaded, composite)))
            _enter_expert_rules(seams, loaded, composite)
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _list_rules(loaded: LoadedModel, composite: Composite) -> Iterator[Hook]:
    model, family = loaded.model, loaded.family
    norm_rule = _norm_hook(family.norm)
    if composite.norm_identity:
        yield OutputHook(model.get_submodule(family.final_norm), norm_rule)
    outputs = list(find_attention_outputs(model, family).values())
    for layer in range(loaded.layers):
        block = model.get_submodule(f"{family.layers}.{layer}")
        if composite.norm_identity:
            for path in family.layer_norms:
                yield OutputHook(block.get_submodule(path), norm_rule)
        if composite.activation_identity:
            yield OutputHook(block.get_submodule(family.activation), _activation_hook)
        if family.experts is None and family.mlp_product and composite.product_factor != 1.0:
            halve = _scale_input_hook(composite.product_factor)
            yield InputHook(block.get_submodule(family.mlp_output), halve)
        if family.experts is not None:
            yield from _list_routing_rules(block.get_submodule(family.experts), composite)
        head_dim = count_features(outputs[layer]) // loaded.heads
        yield from _list_attention_rules(block, family, composite, loaded.heads, head_dim)


def _list_attention_rules(
    block: nn.Module, family: Family, composite: Composite, heads: int, head_dim: int
) -> Iterator[Hook]:
    attention = family.attention
    wanted = (composite.query_factor, composite.key_factor, composite.value_factor)
    if isinstance(attention, FusedProjection):
        projection = block.get_submodule(attention.path)
        if set(wanted) != {1.0}:
            factors = _fused_factors(projection, attention.layout, wanted, heads, head_dim)
            yield OutputHook(projection, _scale_features_hook(factors))
        return
    paths = (attention.query, attention.key, attention.value)
    for path, factor in zip(paths, wanted, strict=True):
        projection = block.get_submodule(path)
        if factor != 1.0:
            yield OutputHook(projection, _scale_output_hook(factor))


def _fused_factors(
    projection: nn.Module,
    layout: FusedLayout,
    wanted: tuple[float, float, float],
    heads: int,
    head_dim: int,
) -> torch.Tensor:
    """Return the factor of each output feature of a fused projection, `(feature,)`."""
    weight = linear_weight(projection)
    features = weight.numel() // count_features(projection)
    factors = weight.new_tensor(wanted)
    if layout is FusedLayout.PER_HEAD:
        return factors.repeat_interleave(head_dim).repeat(heads)
    queries = heads * head_dim
    shared = (features - queries) // 2
    sizes = torch.tensor([queries, shared, shared], device=weight.device)
    return factors.repeat_interleave(sizes)


def _list_routing_rules(experts: nn.Module, composite: Composite) -> Iterator[Hook]:
    if composite.routed_factor != 1.0:
        yield OutputHook(experts, _scale_output_hook(composite.routed_factor))
    if composite.router_factor != 1.0:
        yield InputHook(experts, _scale_routing_hook(composite.router_factor))


def _enter_expert_rules(seams: ExitStack, loaded: LoadedModel, composite: Composite) -> None:
    family = loaded.family
    if family.experts is None or not family.mlp_product:
        return

    def halve(neurons: torch.Tensor, rows: Rows) -> torch.Tensor:  # noqa: ARG001
        return scale_gradient(neurons, composite.product_factor)

    for layer in range(loaded.layers):
        experts = loaded.model.get_submodule(f"{family.layers}.{layer}.{family.experts}")
        seams.enter_context(transformed_products(experts, halve))


def _norm_hook(norm: Norm) -> _Hook:
    def hook(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> Any:
        inputs = args[0].to(output.device)  # may differ if the model is on several devices
        weight, epsilon = module.weight, float(getattr(module, norm.epsilon))
        assert weight is None or isinstance(weight, torch.Tensor)
        if norm.is_centred:
            return apply_layer_norm_rule(inputs, output, weight, epsilon)
        assert weight is not None
        scale = weight + norm.weight_offset if norm.weight_offset else weight
        return apply_rms_norm_rule(inputs, output, scale, epsilon)

    return hook


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


def _scale_features_hook(factors: torch.Tensor) -> _Hook:
    def hook(module: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> Any:  # noqa: ARG001
        return scale_feature_gradients(output, factors)

    return hook


def _scale_input_hook(factor: float) -> _Hook:
    def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> Any:  # noqa: ARG001
        return (scale_gradient(args[0], factor), *args[1:])

    return hook


def _scale_routing_hook(factor: float) -> _Hook:
    def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> Any:  # noqa: ARG001
        hidden, index, weights = args
        return hidden, index, scale_gradient(weights, factor)

    return hook
