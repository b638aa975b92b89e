"""When a message that failed is tried again, and when a webhook is given up. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

PAUSES_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""After each failed attempt, as Standard Webhooks proposes: the last comes three days after the
first."""
TRIES = len(PAUSES_SECONDS) + 1
"""Attempts at one message."""
JITTER = 0.2
"""Share by which a pause may be longer, so that receivers which were down are not all asked at
once."""


def find_pause(failures: int, draw: float, pauses: Sequence[float] = PAUSES_SECONDS) -> timedelta:
    """Return the pause after so many failures; `draw` in [0, 1) says how much longer it is."""
    base = pauses[min(failures, len(pauses)) - 1]
    return timedelta(seconds=base * (1 + JITTER * draw))


def is_given_up(failing_since: datetime, now: datetime, seconds: float) -> bool:
    """Whether a webhook has done nothing but fail for so long."""
    return now - failing_since >= timedelta(seconds=seconds)
