"""Screening of a ranking by measured damage: relevance is linear, and a few neurons are not.

A neuron that seldom fires but then decides everything (a token detector in the first layers, an
attention sink) looks cheap to any first-order cost. Pruning a short block of the ranking and
measuring shows it at once, and one such neuron among a hundred undoes a correction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from workers.domain import Component

BLOCK = 8
"""Components pruned together in a first measurement."""

PART = 2
"""Components pruned together when a block stands out."""

TOLERANCE = 2.0
"""A block or part stands out when it costs this many times what is usual for its size."""

MeasureDamage = Callable[[Sequence[Component]], float]
"""Mean KL divergence from the base with these components pruned, nats a token."""


def screen_components(
    ranked: Sequence[Component], measure_damage: MeasureDamage
) -> tuple[Component, ...]:
    """Return `ranked` without the components that do far more damage than their neighbours.

    Every block of `BLOCK` is measured. One that does more than `TOLERANCE` times the median
    block's damage is measured again in parts of `PART`, and parts that stand out by the same
    standard are dropped. The order stays.
    """
    blocks = [tuple(ranked[start : start + BLOCK]) for start in range(0, len(ranked), BLOCK)]
    damages = [measure_damage(block) for block in blocks]
    if not damages:
        return ()
    usual = median(damage / len(block) for damage, block in zip(damages, blocks, strict=True))
    kept: list[Component] = []
    for block, damage in zip(blocks, damages, strict=True):
        if damage <= TOLERANCE * usual * len(block):
            kept.extend(block)
            continue
        for start in range(0, len(block), PART):
            part = block[start : start + PART]
            if measure_damage(part) <= TOLERANCE * usual * len(part):
                kept.extend(part)
    return tuple(kept)
