"""Random numbers that depend on a seed and a place alone, not on what is drawn beside them."""

from __future__ import annotations

import torch

from workers.models.splitmix import STEP, mix, shift_right

_BITS = 23
"""Of a number in [0, 1): so few that float32 holds its product with a sum near 1 below that sum."""


def draw_uniforms(seed: int, samples: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return a float32 number in [0, 1) for each place, the same in whatever company.

    `samples` and `tokens`, int64 `(place,)`, say which token of which sample. A counter-based
    generator: SplitMix64 over seed, sample and token in turn.
    """
    state = mix(torch.full_like(samples, seed % (1 << 63)) + STEP)
    for value in (samples, tokens):
        state = mix(state + value + STEP)
    return shift_right(state, 64 - _BITS).float() / (1 << _BITS)
