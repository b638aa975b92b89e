"""LRP rules in gradient × input form: each leaves the values unchanged and changes the gradient.

With ε → 0 a linear layer needs no rule, because its relevance is input · modified gradient
(AttnLRP, arXiv 2402.05602; arXiv 2506.13727, appendix). Rules are needed only for the operations
below. Every rule returns its values bit for bit, so logits do not depend on the rules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.autograd import Function


class _ScaleGradient(Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None]:
        return (None if ctx.factor == 0.0 else grads[0] * ctx.factor), None


class _ScaleFeatures(Function):
    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(factors)
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        (factors,) = ctx.saved_tensors
        return (grads[0] * factors).masked_fill_(factors == 0, 0.0), None


class _ReplaceGradient(Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: torch.Tensor,  # noqa: ARG004 - takes the gradient
        outputs: torch.Tensor,
        *factors: torch.Tensor,
    ) -> torch.Tensor:
        ctx.save_for_backward(*factors)
        ctx.factor_count = len(factors)
        return outputs.view_as(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient = grads[0]
        for factor in ctx.saved_tensors:
            gradient = gradient * factor
        return gradient, None, *([None] * ctx.factor_count)


class _LinearNorm(_ReplaceGradient):
    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient, *others = _ReplaceGradient.backward(ctx, *grads)
        assert gradient is not None
        return gradient - gradient.mean(dim=-1, keepdim=True), *others


def scale_gradient(values: torch.Tensor, factor: float) -> torch.Tensor:
    """Return `values` unchanged, with the gradient through them multiplied by `factor`.

    The uniform rule for a product of two factors is `factor = 1/2` at the product, which halves
    the relevance of both (AttnLRP, Eq. 15). A factor of 0 stops the gradient, as CP-LRP does at
    queries and keys. Any shape.
    """
    return values if factor == 1.0 else _scale(values, factor)


def _scale(values: torch.Tensor, factor: float) -> torch.Tensor:
    scaled: torch.Tensor = _ScaleGradient.apply(values, factor)  # type: ignore[no-untyped-call]
    return scaled


def scale_feature_gradients(values: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Return `values` unchanged, with the gradient of each feature multiplied by its factor.

    Like `scale_gradient`, for a projection whose outputs have several roles. A factor of 0 stops
    even an infinite gradient. `values` are `(..., feature)`, `factors` `(feature,)`.
    """
    scaled: torch.Tensor = _ScaleFeatures.apply(values, factors)  # type: ignore[no-untyped-call]
    return scaled


def apply_identity_rule(inputs: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Return `outputs` = f(inputs) of an element-wise f, with f′(x) replaced by f(x)/x.

    AttnLRP, Eq. 9: all relevance of an output goes to its only input. If the input is 0, its
    relevance is 0 for any gradient, and the ratio is taken as 0. Both arguments have the same
    shape.
    """
    with torch.no_grad():
        ratio = (outputs / inputs).masked_fill_(inputs == 0, 0.0)
    result: torch.Tensor = _ReplaceGradient.apply(  # type: ignore[no-untyped-call]
        inputs, outputs.detach(), ratio
    )
    return result


def apply_rms_norm_rule(
    inputs: torch.Tensor, outputs: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> torch.Tensor:
    """Return `outputs` of an RMSNorm over the last axis, with no gradient through the variance.

    AttnLRP, section 3.3.3: if the root mean square is held constant, the norm is linear and
    relevance passes through it unchanged. `inputs` and `outputs` are `(..., feature)`, `weight`
    `(feature,)`.
    """
    with torch.no_grad():
        variance = inputs.float().pow(2).mean(-1, keepdim=True)
        inverse_rms = torch.rsqrt(variance + epsilon).to(inputs.dtype)
    result: torch.Tensor = _ReplaceGradient.apply(  # type: ignore[no-untyped-call]
        inputs, outputs.detach(), inverse_rms, weight.detach()
    )
    return result


def apply_layer_norm_rule(
    inputs: torch.Tensor, outputs: torch.Tensor, weight: torch.Tensor | None, epsilon: float
) -> torch.Tensor:
    """Return `outputs` of a LayerNorm over the last axis, with no gradient through the variance.

    Subtracting the mean is linear and keeps its gradient; the bias absorbs its share of relevance
    (AttnLRP, section 3.3.3). `inputs` and `outputs` are `(..., feature)`, `weight` `(feature,)` or
    None.
    """
    with torch.no_grad():
        variance = inputs.float().var(-1, keepdim=True, unbiased=False)
        inverse_deviation = torch.rsqrt(variance + epsilon).to(inputs.dtype)
    factors = [inverse_deviation] if weight is None else [weight.detach(), inverse_deviation]
    result: torch.Tensor = _LinearNorm.apply(  # type: ignore[no-untyped-call]
        inputs, outputs.detach(), *factors
    )
    return result
