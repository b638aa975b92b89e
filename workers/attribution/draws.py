"""Random numbers that depend only on a seed and a position, not on other draws."""

from __future__ import annotations

import torch

from workers.models.splitmix import STEP, mix, shift_right

_BITS = 23
"""Random bits per number: 23, so that `u * sum` in float32 is always strictly below `sum`."""


def draw_uniforms(seed: int, samples: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return a uniform float32 number in [0, 1) for each place, `(place,)`.

    It does not depend on what else is in the batch. `samples` and `tokens`, int64 `(place,)`, are
    the indices of each place's sample and token. The generator is counter-based: SplitMix64 over
    seed, sample and token in turn.
    """
    state = mix(torch.full_like(samples, seed % (1 << 63)) + STEP)
    for value in (samples, tokens):
        state = mix(state + value + STEP)
    return shift_right(state, 64 - _BITS).float() / (1 << _BITS)
