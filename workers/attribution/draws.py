"""Random numbers that depend on a seed and a place alone, not on what is drawn beside them."""

from __future__ import annotations

import torch

_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
_SHIFTS = (30, 27, 31)
_BITS = 23
"""Of a number in [0, 1): so few that float32 holds its product with a sum near 1 below that sum."""


def draw_uniforms(seed: int, samples: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return a float32 number in [0, 1) for each place, the same in whatever company.

    `samples` and `tokens`, int64 `(place,)`, say which token of which sample. A counter-based
    generator: the finaliser of SplitMix64 (Steele, Lea, Flood 2014) over seed, sample and token
    in turn; int64 products wrap around, on every device alike.
    """
    state = _mix(torch.full_like(samples, seed % (1 << 63)))
    for value in (samples, tokens):
        state = _mix(state + value)
    return _shift_right(state, 64 - _BITS).float() / (1 << _BITS)


def _mix(state: torch.Tensor) -> torch.Tensor:
    state = state + _STEP
    for shift, factor in zip(_SHIFTS, _MIX, strict=False):
        state = (state ^ _shift_right(state, shift)) * factor
    return state ^ _shift_right(state, _SHIFTS[-1])


def _shift_right(values: torch.Tensor, count: int) -> torch.Tensor:
    """Return the bits shifted, zeros from the left: int64 alone would repeat the sign."""
    return (values >> count) & ((1 << (64 - count)) - 1)
