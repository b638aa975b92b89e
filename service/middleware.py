"""Middleware around every request: id, security headers, body limits, the last error handler."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from array import array
from collections.abc import Callable
from itertools import accumulate
from uuid import uuid4

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from excise.logs import bind_log_fields
from service.body_budget import BodyBudget
from service.errors import ExciseError, InvalidRequestError, SlowRequestError, TooLargeError
from service.problems import build_internal_response, build_problem_response
from service.settings import Settings
from service.tracing import describe_trace

logger = logging.getLogger(__name__)

API_PREFIX = "/v1/"
"""Everything under it needs a key and may have a body; nothing else does."""
PROMPT_SETS_PATH = "/v1/prompt-sets"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LONG_BODY_BYTES = 64 * 1024  # a scan of more takes over a millisecond
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # 1 and -1, as signed bytes
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
Take = Callable[[int], None]
"""Counts bytes of a body that were received; raises `TooManyBodiesError`."""

_LOCKED_DOWN = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
)


class RequestEnvelope:
    """Outermost middleware: assigns the request's id, adds security headers, handles all errors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid4().hex
        bind_log_fields(request_id=request_id, **describe_trace())
        has_started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                _add_headers(MutableHeaders(scope=message), scope["path"], request_id)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            logger.exception("request failed: %s %s", scope["method"], scope["path"])
            if has_started:
                raise
            await build_internal_response()(scope, receive, send_with_headers)


class BodyLimits:
    """Refuses bodies that arrive too slowly or are too large, and JSON that is nested too deeply.

    Only paths under `API_PREFIX` have bodies, and their callers' keys were checked before. Other
    requests are passed on unchanged; nothing reads their bodies.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app = app
        self._settings = settings
        self._budget = BodyBudget(
            settings.max_receiving_bytes, settings.max_receiving_bytes_per_key
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, its body already read and checked."""
        if scope["type"] != "http" or not is_api_path(get_path(scope)):
            await self._app(scope, receive, send)
            return
        with self._budget.hold(_find_key_id(scope)) as take:
            try:
                body = await self._read_in_time(scope, receive, take)
            except ExciseError as error:
                await build_problem_response(error)(scope, receive, send)
                return
            if body is not None:  # else the client went away
                await self._pass_on(scope, receive, send, body)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """Serve the request with this body."""
        is_replayed = False

        async def replay() -> Message:
            nonlocal is_replayed
            if is_replayed:
                return await receive()
            is_replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _read_in_time(self, scope: Scope, receive: Receive, take: Take) -> bytes | None:
        """Return the whole body, checked; None if the client left. Raises `ExciseError`."""
        limit = self._settings.body_seconds
        try:
            async with asyncio.timeout(limit):
                body = await self._read_body(scope, receive, take)
        except TimeoutError:
            raise SlowRequestError(
                f"The request body took more than {limit:g} s to arrive. Send less, or faster.",
                param="body",
            ) from None
        if body is not None and get_path(scope) != PROMPT_SETS_PATH:
            await self._check_depth(body)
        return body

    async def _read_body(self, scope: Scope, receive: Receive, take: Take) -> bytes | None:
        """Return the whole body; None if the client left. Raises `TooLargeError` at the limit."""
        limit = self._limit(get_path(scope))
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > limit:
            raise _too_large(limit)
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk, more = message.get("body", b""), message.get("more_body", False)
            if size + len(chunk) > limit:
                raise _too_large(limit)
            take(len(chunk))
            size += len(chunk)
            chunks.append(chunk)
        return b"".join(chunks)

    async def _check_depth(self, body: bytes) -> None:
        """Check the nesting; for a long body, outside the event loop."""
        limit = self._settings.max_json_depth
        if len(body) > _LONG_BODY_BYTES:
            await run_in_threadpool(check_json_depth, body, limit)
        else:
            check_json_depth(body, limit)

    def _limit(self, path: str) -> int:
        """Return the size of the largest body allowed at `path`."""
        settings = self._settings
        return (
            settings.max_prompt_set_bytes if path == PROMPT_SETS_PATH else settings.max_body_bytes
        )


def _find_key_id(scope: Scope) -> str:
    """Return the id of the key, which was authenticated before."""
    return str(getattr(scope.get("state", {}).get("identity"), "key_id", ""))


def get_path(scope: Scope) -> str:
    """Return the path used for routing, without the prefix that a proxy in front adds."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def is_api_path(path: str) -> bool:
    """Return whether `path` is under `API_PREFIX`, so that it needs a key and may have a body."""
    return path.startswith(API_PREFIX)


def check_json_depth(body: bytes, limit: int) -> None:
    """Raise `InvalidRequestError` if the JSON in `body` is nested deeper than `limit`.

    Also raises for encodings other than UTF-8, which the parser would accept but this check cannot
    read. Every step is one pass over the bytes. After a syntax error the count may be wrong, but
    the parser never gets beyond it.
    """
    if not json.detect_encoding(body).startswith("utf-8"):
        raise InvalidRequestError("The body is not in UTF-8. Send UTF-8.", param="body")
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    outside_strings = b"".join(unescaped.split(b'"')[::2])
    steps = array("b", outside_strings.translate(_STEPS, _NO_BRACKETS))
    if max(accumulate(steps), default=0) > limit:
        raise InvalidRequestError(
            f"The body is nested more than {limit} levels deep. Flatten it.", param="body"
        )


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(
        f"The request body is over the limit of {limit} bytes ({limit / 2**20:g} MiB). "
        "Send less, or split it.",
        param="body",
    )


def _add_headers(headers: MutableHeaders, path: str, request_id: str) -> None:
    """Add the request's id and the security headers, unless a handler has set its own."""
    headers["X-Request-ID"] = request_id
    for name, value in _HEADERS.items():
        headers.setdefault(name, value)
    if path.startswith("/v1"):
        headers.setdefault("Cache-Control", "private, no-cache")
    headers.setdefault("Content-Security-Policy", _LOCKED_DOWN)
