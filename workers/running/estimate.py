"""How long a job will still take, from what its stages took so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Spent:
    """What is known of a job's time."""

    finished: Mapping[str, float]
    """Stage → seconds, of those that are finished."""
    stage: str
    """The one that is running."""
    seconds: float
    """How long it has been running."""
    remaining_seconds: float
    """How long it will go on."""


def estimate_job_seconds(shares: Mapping[str, float], spent: Spent) -> float:
    """Return the seconds left of the job.

    `shares` are its stages in order, with the usual share of its time that each takes; later
    stages are expected to keep to them, by all that is known of those up to the running one.
    """
    names = list(shares)
    place = names.index(spent.stage)
    known = {name: spent.finished[name] for name in names[:place] if name in spent.finished}
    known[spent.stage] = spent.seconds + spent.remaining_seconds
    pace = sum(known.values()) / sum(shares[name] for name in known)
    return spent.remaining_seconds + pace * sum(shares[name] for name in names[place + 1 :])
