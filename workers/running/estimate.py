"""How long a job will still take, from the pace of the stage it is in."""

from __future__ import annotations

from collections.abc import Mapping

STAGE_SHARES: Mapping[str, Mapping[str, float]] = {
    "correction": {
        "prepare": 0.13,
        "attribute": 0.22,
        "search": 0.41,
        "validate": 0.23,
        "package": 0.01,
    },
    "circuit": {"prepare": 0.03, "discover": 0.90, "validate": 0.05, "package": 0.02},
    "compression": {"prepare": 0.25, "compress": 0.45, "validate": 0.25, "package": 0.05},
}
"""What part of a job's time each stage takes, by kind: a correction's measured on the demo on two
CPU cores, the others' counted from the passes over the model that their defaults ask for."""


def estimate_remaining_seconds(
    kind: str, stage: str, done: int, total: int, seconds: float
) -> float | None:
    """Return the seconds left when `stage` came to `done` of `total` in `seconds`.

    The stage's pace is taken for that of the stages after it, by their usual shares. None while
    nothing is done yet.
    """
    if done <= 0 or total <= 0:
        return None
    shares = STAGE_SHARES[kind]
    names = list(shares)
    later = sum(shares[name] for name in names[names.index(stage) + 1 :])
    pace = seconds * total / (done * shares[stage])
    return pace * (later + shares[stage] * (1 - done / total))
