"""What an ablated component leaves behind: a share of its weights, and a bias for its mean."""

from __future__ import annotations

import torch


def scale_values(values: torch.Tensor, scale: float) -> torch.Tensor:
    """Return weights times `scale` in their dtype; 0 gives +0 whatever they were, NaN included."""
    return torch.zeros_like(values) if scale == 0 else values * scale


def compute_bias_shift(
    values: torch.Tensor,
    means: torch.Tensor,
    scale: float,
    outputs: torch.Tensor | None = None,
    output_size: int = 0,
) -> torch.Tensor:
    """Return what the mean activations lose at the output, (1 − scale) · W[:, J] · mean[J].

    `values` are the original weights of the chosen input features, `(feature, out)`, `means`
    their mean activations, `(feature,)`; the result is float32 `(out,)`. For single weights
    `values` and `means` are `(weight,)`, and `outputs` the output feature of each among
    `output_size`.
    """
    weights, lost = values.float().contiguous(), (1 - scale) * means.float()
    if outputs is None:
        return lost @ weights
    shift = torch.zeros(output_size, device=values.device)
    return shift.index_add_(0, outputs, weights * lost)


def shift_bias(bias: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Return the bias plus a float32 shift, rounded once to the bias's dtype."""
    return (bias.float() + shift).to(bias.dtype)
