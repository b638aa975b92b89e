"""Screening of a ranking by measured damage: relevance is linear, and a few neurons are not.

A neuron that seldom fires but then decides everything (a token detector in the first layers, an
attention sink) looks cheap to any first-order cost. Pruning a short block of the ranking and
measuring shows it at once, and one such neuron among a hundred undoes a correction.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from workers.domain import Selection
from workers.pruning.ranking import Ranking

BLOCK = 8
"""Components pruned together in a first measurement."""

PART = 2
"""Components pruned together when a block stands out."""

TOLERANCE = 2.0
"""A block or part stands out when it costs this many times what is usual for its size."""

MeasureDamage = Callable[[Selection], float]
"""Mean KL divergence from the base with these components pruned, nats a token."""


def screen_components(ranked: Ranking, measure_damage: MeasureDamage) -> Ranking:
    """Return `ranked` without the components that do far more damage than their neighbours.

    Every block of `BLOCK` is measured. One that does more than `TOLERANCE` times the median
    block's damage is measured again in parts of `PART`, and parts that stand out by the same
    standard are dropped. The order stays.
    """
    blocks = [
        range(start, min(start + BLOCK, len(ranked))) for start in range(0, len(ranked), BLOCK)
    ]
    damages = [measure_damage(ranked.slice(block.start, block.stop)) for block in blocks]
    if not damages:
        return ranked
    usual = median(damage / len(block) for damage, block in zip(damages, blocks, strict=True))
    kept: list[int] = []
    for block, damage in zip(blocks, damages, strict=True):
        if damage <= TOLERANCE * usual * len(block):
            kept.extend(block)
            continue
        for start in range(0, len(block), PART):
            part = block[start : start + PART]
            damage_of_part = measure_damage(ranked.slice(part.start, part.stop))
            if damage_of_part <= TOLERANCE * usual * len(part):
                kept.extend(part)
    return ranked.keep(kept)
