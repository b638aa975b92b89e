"""SplitMix64 (Steele, Lea, Flood 2014), the hash for random draws that must not depend on order.

Numbers are int64 tensors; sums and products wrap around in the same way on every device.
"""

from __future__ import annotations

import torch

STEP = 0x9E3779B97F4A7C15 - (1 << 64)
"""The generator's increment between consecutive states, as a signed 64-bit number."""

_FACTORS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
_SHIFTS = (30, 27, 31)


def mix(state: torch.Tensor) -> torch.Tensor:
    """Return the generator's output function of each state, which mixes its bits."""
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
        state = (state ^ shift_right(state, shift)) * factor
    return state ^ shift_right(state, _SHIFTS[-1])


def shift_right(values: torch.Tensor, count: int) -> torch.Tensor:
    """Return the values shifted right by `count` bits, filled with zeros and not the sign bit."""
    return (values >> count) & ((1 << (64 - count)) - 1)
