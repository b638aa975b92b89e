"""Random numbers that depend only on a seed and a place, never on what else is drawn."""

from __future__ import annotations

import torch

_STEP = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
_SHIFTS = (30, 27, 31)
_BITS = 23
"""Random bits a number: 23, so that float32 can represent `u * sum` strictly below `sum`."""


def draw_uniforms(seed: int, samples: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return a uniform float32 number in [0, 1) for each place, whatever else is in the batch.

    `samples` and `tokens`, int64 `(place,)`, are the indices of the place's sample and token.
    The generator is counter-based: the finaliser of SplitMix64 (Steele, Lea, Flood 2014) over
    seed, sample and token in turn. int64 products wrap around alike on every device.
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
    """Return the bits shifted right, filled with zeros; int64's own shift repeats the sign."""
    return (values >> count) & ((1 << (64 - count)) - 1)
