"""The short cache: one look-up for all who miss, nothing used after `forget`."""

from __future__ import annotations

import asyncio

import pytest

from service.gateway.cache import ShortCache


class Loader:
    """Counts its calls; each gives the next number once it is let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> int:
        self.calls += 1
        number = self.calls
        await self.gate.wait()
        return number


def test_a_value_is_kept_for_its_time() -> None:
    async def run() -> None:
        load = Loader()
        kept: ShortCache[int] = ShortCache(60)
        assert [await kept.get("a", load), await kept.get("a", load)] == [1, 1]
        assert await kept.get("b", load) == 2
        gone: ShortCache[int] = ShortCache(0)
        assert [await gone.get("a", load), await gone.get("a", load)] == [3, 4]

    asyncio.run(run())


def test_whoever_misses_at_once_shares_a_look_up() -> None:
    async def run() -> None:
        load = Loader()
        cache: ShortCache[int] = ShortCache(60)
        assert await asyncio.gather(*(cache.get("a", load) for _ in range(5))) == [1] * 5

    asyncio.run(run())


def test_a_look_up_begun_before_forget_serves_nobody_after_it() -> None:
    async def run() -> None:
        load = Loader()
        cache: ShortCache[int] = ShortCache(60)
        load.gate.clear()
        early = asyncio.ensure_future(cache.get("a", load))
        await asyncio.sleep(0)
        cache.forget()
        late = asyncio.ensure_future(cache.get("a", load))
        await asyncio.sleep(0)
        load.gate.set()
        assert [await early, await late, await cache.get("a", load)] == [1, 2, 2]

    asyncio.run(run())


def test_errors_are_not_kept_and_a_caller_that_leaves_harms_nobody() -> None:
    async def run() -> None:
        cache: ShortCache[int] = ShortCache(60)
        load = Loader()

        async def fail() -> int:
            raise KeyError("x")

        with pytest.raises(KeyError):
            await cache.get("a", fail)
        load.gate.clear()
        leaving = asyncio.ensure_future(cache.get("a", load))
        staying = asyncio.ensure_future(cache.get("a", load))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.sleep(0)
        load.gate.set()
        assert await staying == 1

    asyncio.run(run())
