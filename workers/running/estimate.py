"""How much longer a job will take, estimated from the duration of its stages so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Spent:
    """What is known about a job's use of time."""

    finished: Mapping[str, float]
    """Stage → its duration in seconds, for the finished stages."""
    stage: str
    """The running stage."""
    seconds: float
    """How long it has been running."""
    remaining_seconds: float
    """How much longer it will run."""


def estimate_job_seconds(usual: Mapping[str, float], spent: Spent) -> float:
    """Return the estimated number of seconds until the job is done.

    `usual` holds its stages in order, with the time that each was estimated to take or usually
    takes, in any unit. Later stages are assumed to deviate from it as those up to the running one.
    """
    names = list(usual)
    place = names.index(spent.stage)
    known = {name: spent.finished[name] for name in names[:place] if name in spent.finished}
    known[spent.stage] = spent.seconds + spent.remaining_seconds
    pace = sum(known.values()) / sum(usual[name] for name in known)
    return spent.remaining_seconds + pace * sum(usual[name] for name in names[place + 1 :])
