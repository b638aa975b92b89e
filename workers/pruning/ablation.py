"""Arithmetic of ablation: weights scaled down, and the bias that replaces a mean activation."""

from __future__ import annotations

import torch


def scale_values(values: torch.Tensor, scale: float) -> torch.Tensor:
    """Return weights times `scale` in their own dtype; a scale of 0 gives +0 even for NaN."""
    return torch.zeros_like(values) if scale == 0 else values * scale


def compute_bias_shift(
    values: torch.Tensor,
    means: torch.Tensor,
    scale: float,
    outputs: torch.Tensor | None = None,
    output_size: int = 0,
) -> torch.Tensor:
    """Return the mean output that an ablation takes away, (1 − scale) · W[:, J] · mean[J].

    `values` are the original weights of the chosen input features J, `(feature, out)`, and
    `means` are their mean activations, `(feature,)`; the result is float32 `(out,)`. For single
    weights, `values` and `means` have shape `(weight,)`, and `outputs` gives each weight's
    output feature, below `output_size`.
    """
    weights, lost = values.float().contiguous(), (1 - scale) * means.float()
    if outputs is None:
        return lost @ weights
    shift = torch.zeros(output_size, device=values.device)
    return shift.index_add_(0, outputs, weights * lost)


def shift_bias(bias: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Return the bias plus a float32 shift, rounded once to the bias's dtype."""
    return (bias.float() + shift).to(bias.dtype)
