"""Completions end, and are given back, in whatever way: read, failed, or never read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message

from service.errors import RateLimitedError, UnavailableError
from service.gateway import forwarding
from service.gateway.forwarding import Forwarder
from service.gateway.limits import OpenCompletions
from service.gateway.metrics import GatewayMetrics
from service.gateway.upstream import UpstreamAwayError, UpstreamFailedError, UpstreamSlowError
from service.keys.operations import Identity

GUARD_SECONDS = 30
STREAM: Any = SimpleNamespace(model="m", stream=True, encode_upstream=lambda name: b"")
WHOLE: Any = SimpleNamespace(model="m", stream=False, encode_upstream=lambda name: b"")
SCOPE = {"type": "http", "asgi": {"spec_version": "2.3"}}


class Fake:
    """A router, a server that is away or not, and its streams."""

    def __init__(self) -> None:
        self.closed = 0
        self.is_away = self.is_slow = False
        self.asked = 0
        self.public_name = self.served_name = "mv_1"

    async def find_route(self, tenant_id: str, model: str) -> Fake:
        return self

    def pick(self, draw: float) -> Fake:
        return self

    def forget(self) -> None:
        pass

    async def open(self, *_: object) -> Fake:
        return self

    async def ask(self, *_: object) -> bytes:
        self.asked += 1
        if self.is_slow:
            raise UpstreamSlowError("slow")
        if self.is_away:
            raise UpstreamAwayError("away")
        return b"{}"

    async def events(self) -> AsyncIterator[bytes]:
        yield b"data: [DONE]\n\n"

    async def aclose(self) -> None:
        self.closed += 1


def make(of_key: int = 1, of_tenant: int = 2) -> tuple[Any, Forwarder, OpenCompletions]:
    fake: Any = Fake()
    limits = OpenCompletions(of_key, of_tenant)
    return fake, Forwarder(fake, fake, GatewayMetrics(), limits), limits


def call(key: str, tenant: str = "t") -> Identity:
    return Identity(tenant, key, frozenset())


async def never(*_: object) -> Any:
    await asyncio.sleep(GUARD_SECONDS)
    raise AssertionError("it should have been given up")


async def read(message: Message) -> None:
    pass


def count_ended(forwarder: Forwarder, outcome: str) -> float | None:
    names = {"version": "mv_1", "outcome": outcome}
    return forwarder._metrics.registry.get_sample_value("excise_gateway_requests_total", names)


def test_a_client_that_does_not_read_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "_SEND_SECONDS", 0.05)

    async def run() -> None:
        fake, forwarder, limits = make()
        answer = await forwarder.forward(call("a"), "/v1/completions", STREAM, never)
        assert limits._open
        await answer(SCOPE, never, never)
        assert (fake.closed, count_ended(forwarder, "left")) == (1, 1.0)
        assert not limits._open

    asyncio.run(run())


def test_a_servers_error_in_the_middle_is_told_in_openais_form() -> None:
    sent: list[Message] = []

    async def keep(message: Message) -> None:
        sent.append(message)

    async def fail() -> AsyncIterator[bytes]:
        yield b"data: {}\n\n"
        raise UpstreamFailedError("the engine died.")

    async def run() -> None:
        fake, forwarder, _ = make()
        fake.events = fail
        answer = await forwarder.forward(call("a"), "/v1/completions", STREAM, never)
        await answer(SCOPE, never, keep)
        assert count_ended(forwarder, "broken") == 1.0

    asyncio.run(run())
    event = b"".join(message.get("body", b"") for message in sent).split(b"\n\n")[1]
    assert json.loads(event.removeprefix(b"data: "))["error"] == {
        "code": "unavailable",
        "message": "The server of mv_1 ended the answer with an error: the engine died. "
        "Send the request again.",
        "param": None,
    }


def test_open_completions_are_limited_by_key_and_tenant() -> None:
    async def run() -> None:
        _, forwarder, limits = make()

        async def ask(caller: Identity, request: Any = STREAM) -> Any:
            return await forwarder.forward(caller, "/v1/completions", request, never)

        first = await ask(call("a"))
        with pytest.raises(RateLimitedError, match="API key has 1 completions") as caught:
            await ask(call("a"))
        assert caught.value.retry_after_seconds
        second = await ask(call("b"))
        with pytest.raises(RateLimitedError, match="tenant has 2 completions"):
            await ask(call("c"))
        await ask(call("d", "other"), WHOLE)
        for answer in (first, second):
            await answer(SCOPE, never, read)
        assert count_ended(forwarder, "ok") == 3.0
        assert not limits._open

    asyncio.run(run())


def test_a_completion_that_failed_is_no_longer_under_way() -> None:
    async def run() -> None:
        fake, forwarder, limits = make()
        fake.is_away = True
        with pytest.raises(UnavailableError):
            await forwarder.forward(call("a"), "/v1/completions", WHOLE, never)
        assert not limits._open

    asyncio.run(run())


def test_a_server_that_is_slow_is_not_asked_for_the_same_again() -> None:
    async def run() -> None:
        fake, forwarder, limits = make()
        fake.is_slow = True
        with pytest.raises(UnavailableError, match="did not answer in time"):
            await forwarder.forward(call("a"), "/v1/completions", WHOLE, never)
        assert (fake.asked, count_ended(forwarder, "unavailable")) == (1, 1.0)
        fake.is_slow, fake.is_away = False, True
        with pytest.raises(UnavailableError, match="does not answer"):
            await forwarder.forward(call("a"), "/v1/completions", WHOLE, never)
        assert fake.asked == 3
        assert not limits._open

    asyncio.run(run())
