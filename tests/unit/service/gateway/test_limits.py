"""Token buckets: a burst, then a steady rate, each key by itself."""

from __future__ import annotations

import pytest

from service.errors import RateLimitedError
from service.gateway.limits import RateLimiter


class Clock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_then_the_rate() -> None:
    clock = Clock()
    limiter = RateLimiter(per_minute=6, burst=3, clock=clock)
    for _ in range(3):
        limiter.take("a")
    with pytest.raises(RateLimitedError, match="6 requests a minute") as caught:
        limiter.take("a")
    assert caught.value.retry_after_seconds == 10
    limiter.take("b")
    clock.now += 9.9
    with pytest.raises(RateLimitedError) as caught:
        limiter.take("a")
    assert caught.value.retry_after_seconds == 1
    clock.now += 0.1
    limiter.take("a")
    clock.now += 3600
    for _ in range(3):
        limiter.take("a")
    with pytest.raises(RateLimitedError):
        limiter.take("a")


def test_memory_stays_bounded_and_empty_buckets_are_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.gateway.limits._MAX_BUCKETS", 3)
    clock = Clock()
    limiter = RateLimiter(per_minute=60, burst=1, clock=clock)
    for key in ("a", "b"):
        limiter.take(key)
    clock.now += 2
    limiter.take("c")
    limiter.take("d")
    assert set(limiter._buckets) == {"c", "d"}
    with pytest.raises(RateLimitedError):
        limiter.take("c")
