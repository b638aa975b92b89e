"""When a failed message is sent again, and when a webhook is given up; pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

PAUSES_SECONDS = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Pauses after failed attempts, as proposed by Standard Webhooks; the last attempt is three days
after the first."""

TRIES = len(PAUSES_SECONDS) + 1
"""Largest number of attempts per message."""

JITTER = 0.2
"""A pause may be longer by up to this share, so that receivers that were down do not get all
messages at once. Chosen by hand."""


def find_pause(failures: int, draw: float, pauses: Sequence[float] = PAUSES_SECONDS) -> timedelta:
    """Return the pause after `failures` failures; `draw`, in [0, 1), determines the jitter."""
    base = pauses[min(failures, len(pauses)) - 1]
    return timedelta(seconds=base * (1 + JITTER * draw))


def is_given_up(failing_since: datetime, now: datetime, seconds: float) -> bool:
    """Return whether a webhook has only failed for at least `seconds`."""
    return now - failing_since >= timedelta(seconds=seconds)
