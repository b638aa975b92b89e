"""Rate limits that all API processes share, and their behaviour without the broker."""

from __future__ import annotations

import asyncio
import logging

import pytest
from redis import Redis

from service.errors import RateLimitedError
from service.gateway.shared_limits import SharedLimiter
from service.models import new_id
from tests.unit.service.gateway.test_limits import Clock

NOWHERE = "redis://127.0.0.1:1/0"


def test_two_processes_count_together(broker: Redis, broker_url: str) -> None:
    key = new_id("key")

    async def ask() -> None:
        limiters = [SharedLimiter(broker_url, per_minute=6, burst=4) for _ in range(3)]
        try:
            for limiter in limiters * 4:  # each alone is below its own limit
                await limiter.take(key)
        finally:
            assert all(limiter.is_shared for limiter in limiters)
            for limiter in limiters:
                await limiter.aclose()

    with pytest.raises(RateLimitedError, match="6 requests a minute") as caught:
        asyncio.run(ask())
    assert caught.value.retry_after_seconds >= 1
    (name,) = [name for name in broker.keys("excise:limits*") if key.encode() in name]
    assert int(broker.get(name)) == 10  # 6 per minute, and a burst of 4


def test_other_keys_are_not_limited(broker: Redis, broker_url: str) -> None:
    async def ask() -> None:
        limiter = SharedLimiter(broker_url, per_minute=2, burst=1)
        await limiter.take(new_id("key"))
        await limiter.take(new_id("key"))
        await limiter.aclose()

    asyncio.run(ask())


def test_without_the_broker_each_process_counts_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()

    async def ask() -> None:
        limiter = SharedLimiter(NOWHERE, per_minute=60, burst=3, clock=clock)
        assert limiter.is_shared
        for _ in range(3):
            await limiter.take("a")
        assert not limiter.is_shared
        with pytest.raises(RateLimitedError):  # its own bucket is empty
            await limiter.take("a")
        await limiter.aclose()

    with caplog.at_level(logging.WARNING, "service.gateway.shared_limits"):
        asyncio.run(ask())
    assert [record.message for record in caplog.records] == [
        "the broker does not answer (ConnectionError); each process limits requests by itself"
    ]


def test_counting_returns_with_the_broker(
    broker: Redis,
    broker_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()

    async def ask() -> None:
        limiter = SharedLimiter(broker_url, per_minute=600, burst=9, clock=clock)

        async def fail(*_: object) -> bool:
            raise TimeoutError

        with monkeypatch.context() as patched:
            patched.setattr(limiter._window, "hit", fail)
            await limiter.take("b")
        await limiter.take("b")
        assert not limiter.is_shared  # the broker has not been asked yet
        clock.now += 6
        await limiter.take("b")
        assert limiter.is_shared
        await limiter.aclose()

    with caplog.at_level(logging.WARNING, "service.gateway.shared_limits"):
        asyncio.run(ask())
    assert "answers again" in caplog.records[-1].message
