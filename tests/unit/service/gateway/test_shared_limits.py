"""Requests at once wait for a connection to the broker, which is not its outage."""

from __future__ import annotations

import asyncio

import pytest

from service.gateway import shared_limits
from service.gateway.shared_limits import SharedLimiter

NOWHERE = "redis://127.0.0.1:1/0"
REQUESTS = 100
MAX_CONNECTIONS = 32


@pytest.mark.parametrize("is_away", [False, True])
def test_requests_at_once_share_the_connections(
    is_away: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shared_limits, "_ANSWER_SECONDS", 30)
    under_way: list[int] = [0]

    async def hit(*_: object) -> bool:
        under_way.append(under_way[-1] + 1)
        await asyncio.sleep(0)
        under_way.append(under_way[-1] - 1)
        if is_away:
            raise TimeoutError
        return True

    async def run() -> bool:
        limiter = SharedLimiter(NOWHERE, per_minute=60, burst=REQUESTS)
        monkeypatch.setattr(limiter._window, "hit", hit)
        await asyncio.gather(*(limiter.take("a") for _ in range(REQUESTS)))
        await limiter.aclose()
        return limiter.is_shared

    assert asyncio.run(run()) is not is_away
    assert max(under_way) == MAX_CONNECTIONS
    asked = len(under_way) // 2
    assert asked == (MAX_CONNECTIONS if is_away else REQUESTS)
    assert len(caplog.records) == is_away
