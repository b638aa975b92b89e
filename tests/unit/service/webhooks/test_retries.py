"""When a message is tried again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from service.webhooks.retries import JITTER, PAUSES_SECONDS, TRIES, find_pause, is_given_up

NOW = datetime(2026, 11, 29, tzinfo=UTC)


def test_pauses_grow_and_further_ones_are_like_the_last() -> None:
    pauses = [find_pause(failures, 0.0).total_seconds() for failures in range(1, TRIES)]
    assert pauses == list(PAUSES_SECONDS) == sorted(pauses)
    assert find_pause(9, 0.0, (1, 2)) == timedelta(seconds=2)


def test_receivers_that_were_down_are_not_asked_all_at_once() -> None:
    longest = find_pause(1, 0.999).total_seconds()
    assert PAUSES_SECONDS[0] < longest < PAUSES_SECONDS[0] * (1 + JITTER)


def test_a_webhook_is_given_up_after_failing_for_long() -> None:
    assert not is_given_up(NOW - timedelta(seconds=99), NOW, 100)
    assert is_given_up(NOW - timedelta(seconds=100), NOW, 100)
