"""Forwarding a completion request: choose a version, send, retry once, answer."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import ExitStack
from typing import Any, TypeVar

from fastapi.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from service.errors import InvalidRequestError, UnavailableError
from service.gateway.limits import OpenCompletions
from service.gateway.metrics import GatewayMetrics, Outcome
from service.gateway.requests import CompletionOptions
from service.gateway.routing import Router, Target
from service.gateway.upstream import (
    Path,
    Upstream,
    UpstreamAwayError,
    UpstreamBrokenError,
    UpstreamFailedError,
    UpstreamRefusalError,
    UpstreamSlowError,
    UpstreamStream,
)
from service.keys.operations import Identity
from service.problems import build_problem

logger = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")

_ATTEMPTS = 2
_CLIENT_LEFT = 499  # as nginx logs it
_SEND_SECONDS = 60.0
"""A client that reads nothing for this many seconds is disconnected, as with streams of events.
Chosen by hand."""
VERSION_HEADER = "X-Excise-Version"


class Forwarder:
    """Forwards requests to the servers and returns their answers."""

    def __init__(
        self,
        router: Router,
        upstream: Upstream,
        metrics: GatewayMetrics,
        limits: OpenCompletions,
    ) -> None:
        self._router = router
        self._upstream = upstream
        self._metrics = metrics
        self._limits = limits

    async def forward(
        self,
        caller: Identity,
        path: Path,
        request: CompletionOptions,
        wait_until_left: Callable[[], Awaitable[None]],
    ) -> Response:
        """Return the answer to one request, as a stream if it asks for one.

        `wait_until_left` returns when the client has disconnected; the request to the server is
        then cancelled. Raises `RateLimitedError` if too many are under way, `NotFoundError`,
        `InvalidRequestError` and `UnavailableError`.
        """
        started = time.monotonic()
        self._limits.take(caller)
        with ExitStack() as ending:
            ending.callback(self._limits.give, caller)
            try:
                if request.stream:
                    opening = self._attempt(caller.tenant_id, path, request, self._upstream.open)
                    target, stream = await _finish_unless(wait_until_left, opening)
                    release = ending.pop_all().close  # a stream is under way until it ends
                    return RelayedStream(stream, target, self._metrics, started, release)
                asking = self._attempt(caller.tenant_id, path, request, self._upstream.ask)
                target, content = await _finish_unless(wait_until_left, asking)
            except _ClientLeftError:
                return Response(status_code=_CLIENT_LEFT)
        self._metrics.count(target.public_name, "ok")
        seconds = time.monotonic() - started
        self._metrics.observe_first(target.public_name, seconds)
        self._metrics.observe_whole(target.public_name, seconds)
        headers = {VERSION_HEADER: target.public_name}
        return Response(content, media_type="application/json", headers=headers)

    async def _attempt(
        self,
        tenant_id: str,
        path: Path,
        request: CompletionOptions,
        ask: Callable[[Target, Path, bytes], Awaitable[_Answer]],
    ) -> tuple[Target, _Answer]:
        """Return the first answer of at most two attempts; each looks up the route again.

        So if an alias has moved in between, the second attempt goes to the new version. A server
        that is slow is not asked again: it would do the same work twice.
        """
        draw = random.random()  # noqa: S311 - shares traffic out, guards nothing
        target = None
        for attempt in range(_ATTEMPTS):
            route = await self._router.find_route(tenant_id, request.model)
            target = route.pick(draw)
            if attempt:
                self._metrics.count_retry(target.public_name)
            try:
                return target, await ask(target, path, request.encode_upstream(target.served_name))
            except asyncio.CancelledError:
                self._metrics.count(target.public_name, "left")
                raise
            except UpstreamRefusalError as error:
                self._metrics.count(target.public_name, "refused")
                raise InvalidRequestError(f"The model refused the request: {error}") from None
            except UpstreamSlowError as error:
                logger.info("%s did not answer in time: %s", target.public_name, error)
                self._metrics.count(target.public_name, "unavailable")
                raise UnavailableError(
                    f"The server of {target.public_name} did not answer in time. Ask for fewer "
                    "tokens or for a stream, or try again later."
                ) from None
            except UpstreamAwayError as error:
                logger.info("%s did not answer: %s", target.public_name, error)
                self._router.forget()
        assert target is not None
        self._metrics.count(target.public_name, "unavailable")
        raise UnavailableError(
            f"The server of {target.public_name} does not answer. It is being brought back; try "
            "again in a few seconds."
        )


class RelayedStream(StreamingResponse):
    """A stream of events that always closes the connection to the server at its end.

    It ends, as if the client had left, once the client has read nothing for `_SEND_SECONDS`.
    """

    def __init__(
        self,
        stream: UpstreamStream,
        target: Target,
        metrics: GatewayMetrics,
        started: float,
        release: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._version = target.public_name
        self._metrics = metrics
        self._started = started
        self._release = release
        self._outcome: Outcome = "left"
        headers = {
            VERSION_HEADER: self._version,
            "Cache-Control": "no-cache, no-store",
            "X-Accel-Buffering": "no",
        }
        super().__init__(self._relay(), media_type="text/event-stream", headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; in any case, close the server's connection and count the outcome."""

        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(_SEND_SECONDS):
                    await send(message)
            except TimeoutError:
                raise _ClientLeftError from None

        try:
            await super().__call__(scope, receive, send_in_time)
        except _ClientLeftError:
            logger.info("a client of %s read nothing for %g s", self._version, _SEND_SECONDS)
        finally:
            self._release()
            self._metrics.count(self._version, self._outcome)
            await self._stream.aclose()

    async def _relay(self) -> AsyncIterator[bytes]:
        """Yield the events; if the end mark is missing, an error event takes its place."""
        self._metrics.observe_first(self._version, time.monotonic() - self._started)
        try:
            async for events in self._stream.events():
                yield events
        except UpstreamBrokenError as error:
            logger.info("the answer of %s broke off: %s", self._version, error)
            self._outcome = "broken"
            yield _build_error_event(self._version, error)
            return
        self._outcome = "ok"
        self._metrics.observe_whole(self._version, time.monotonic() - self._started)


class _ClientLeftError(Exception):
    """The client has disconnected, or reads nothing."""


async def _finish_unless(
    wait_until_left: Callable[[], Awaitable[None]], work: Coroutine[Any, Any, _Answer]
) -> _Answer:
    """Return the result of `work`; if the client leaves, cancel it and raise `_ClientLeftError`."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(wait_until_left())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise _ClientLeftError
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


def _build_error_event(version: str, broken: UpstreamBrokenError) -> bytes:
    """Return the event that ends a stream whose server has gone away, or reported an error."""
    what = "was lost during the answer."
    if isinstance(broken, UpstreamFailedError):
        what = f"ended the answer with an error: {broken}"
    error = UnavailableError(f"The server of {version} {what} Send the request again.")
    return b"data: " + json.dumps({"error": build_problem(error)["error"]}).encode() + b"\n\n"
