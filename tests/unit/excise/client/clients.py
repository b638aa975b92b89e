"""Both clients behind one face, so that every test is made of both."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

from excise.client import AsyncClient


class AwaitedClient:
    """An `AsyncClient` whose every call is awaited at once."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._client = AsyncClient(*arguments, **options)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._client, name)
        if inspect.isasyncgenfunction(member):
            return lambda *arguments, **options: self._iterate(member(*arguments, **options))
        if inspect.iscoroutinefunction(member):
            return lambda *arguments, **options: self._runner.run(member(*arguments, **options))
        return member

    def _iterate(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        async def take() -> Any:
            return await anext(items, None)

        while (item := self._runner.run(take())) is not None:
            yield item
