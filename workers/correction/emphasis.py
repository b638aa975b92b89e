"""The emphasis of a search on each of several behaviours."""

from __future__ import annotations

from collections.abc import Sequence

WEAKEST, STRONGEST = 0.5, 2.0
"""Smallest and largest factor by which a behaviour's emphasis changes from one round to the next.
Chosen by hand; not measured."""

MOST_EMPHASIS = 8.0
"""Largest ratio of one behaviour's emphasis to another's, beyond which the other would hardly count
at all. Chosen by hand; not measured."""


def shift_emphasis(emphasis: Sequence[float], attained: Sequence[float]) -> tuple[float, ...]:
    """Return each behaviour's emphasis in the next round, from what it attained in this one.

    `attained` is each behaviour's effect as a share of what is wanted. If some behaviour falls
    short of it, each one's emphasis is divided by its share, as far as `WEAKEST` and `STRONGEST`
    allow: what one has too much of goes to the other. If all attain it, nothing changes. These
    are multiplicative weights for the largest minimum (Arora, Hazan and Kale 2012, section 3.2).
    With fewer than two behaviours the result is empty: all count the same.
    """
    if len(attained) < 2:
        return ()
    old = emphasis or (1.0,) * len(attained)
    if min(attained) >= 1:
        return tuple(old)
    shifted = [own * _find_factor(share) for own, share in zip(old, attained, strict=True)]
    least = max(shifted) / MOST_EMPHASIS
    return tuple(max(own, least) for own in shifted)


def _find_factor(share: float) -> float:
    return STRONGEST if share <= 1 / STRONGEST else max(WEAKEST, 1 / share)
