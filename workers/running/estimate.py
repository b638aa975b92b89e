"""How long a job will still take, from the pace of the stage it is in."""

from __future__ import annotations

from collections.abc import Mapping


def estimate_remaining_seconds(
    shares: Mapping[str, float], stage: str, done: int, total: int, seconds: float
) -> float | None:
    """Return the seconds left when `stage` came to `done` of `total` in `seconds`.

    `shares` are the job's stages in order, with the usual share of its time that each takes; later
    stages are expected to go at the pace of this one. None while nothing is done yet.
    """
    if done <= 0 or total <= 0:
        return None
    names = list(shares)
    later = sum(shares[name] for name in names[names.index(stage) + 1 :])
    pace = seconds * total / (done * shares[stage])
    return pace * (later + shares[stage] * (1 - done / total))
