"""How long a job will still take, from the pace of the stage it is in."""

from __future__ import annotations

STAGE_SHARES = {
    "prepare": 0.20,
    "attribute": 0.17,
    "search": 0.33,
    "validate": 0.28,
    "package": 0.02,
}
"""What part of a correction's time each stage takes, measured on the demo on two CPU cores."""


def estimate_remaining_seconds(stage: str, done: int, total: int, seconds: float) -> float | None:
    """Return the seconds left when `stage` came to `done` of `total` in `seconds`.

    The stage's pace is taken for that of the stages after it, by their usual shares. None while
    nothing is done yet.
    """
    if done <= 0 or total <= 0:
        return None
    names = list(STAGE_SHARES)
    later = sum(STAGE_SHARES[name] for name in names[names.index(stage) + 1 :])
    pace = seconds * total / (done * STAGE_SHARES[stage])
    return pace * (later + STAGE_SHARES[stage] * (1 - done / total))
