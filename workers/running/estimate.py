"""How long a job will still take, from the pace of the stage it is in."""

from __future__ import annotations

from collections.abc import Mapping

from excise.names import JobKind, Stage

STAGE_SHARES: Mapping[str, Mapping[str, float]] = {
    JobKind.CORRECTION: {
        Stage.PREPARE: 0.13,
        Stage.ATTRIBUTE: 0.22,
        Stage.SEARCH: 0.41,
        Stage.VALIDATE: 0.23,
        Stage.PACKAGE: 0.01,
    },
    JobKind.CIRCUIT: {
        Stage.PREPARE: 0.03,
        Stage.DISCOVER: 0.90,
        Stage.VALIDATE: 0.05,
        Stage.PACKAGE: 0.02,
    },
    JobKind.COMPRESSION: {
        Stage.PREPARE: 0.25,
        Stage.COMPRESS: 0.45,
        Stage.VALIDATE: 0.25,
        Stage.PACKAGE: 0.05,
    },
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
