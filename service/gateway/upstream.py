"""Requests to the model servers, built from scratch so that nothing else from clients gets through.

UpstreamError
├── UpstreamAwayError     no answer, not even the beginning of one: the request may be sent again
│   └── UpstreamSlowError     the server may be working on it: the request is not sent again
├── UpstreamRefusalError  the request is at fault
└── UpstreamBrokenError   the answer ended early
    └── UpstreamFailedError   with an error that the server reported
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal, get_args
from uuid import uuid4

import aiohttp

from excise.redaction import redact
from service.gateway.routing import Target
from service.tracing import build_trace_headers

Path = Literal["/v1/chat/completions", "/v1/completions"]
COMPLETION_PATHS: frozenset[str] = frozenset(get_args(Path))

_CONNECT_SECONDS = 2.0
_MAX_CONNECTIONS = 1024  # to all servers together; docs/guides/serving.md names it
_IDLE_SECONDS = 4.0  # vLLM closes an idle connection after 5 s
_LAST_BYTES_SECONDS = 0.5  # for the end of a body after the end mark
_JSON = "application/json"
_EVENTS = "text/event-stream"
_FAILURES = (aiohttp.ClientError, OSError)  # OSError includes timeouts
_MAX_ERROR_BYTES = 64 * 1024
_MAX_MESSAGE_CHARACTERS = 500
_MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Largest answer that is not streamed; 16,000 tokens with 20 log probabilities each take a third.
Chosen by hand."""
_MAX_PARSED_BYTES = 1024 * 1024
"""Larger answers are only checked at their ends: parsing 15 MiB takes half a second, in which the
process does nothing else. Chosen by hand."""
_MAX_EVENT_BYTES = 16 * 1024 * 1024
"""Largest event of a stream, which is kept until its end arrives. Chosen by hand."""
_REFUSALS = frozenset({400, 413, 422})
# marks with the start of their line, because text in JSON cannot contain a line break
_ENDS = (b"\ndata: [DONE]", b"\ndata:[DONE]")
_ERRORS = tuple(
    b"\n" + field + value
    for field in (b"data: ", b"data:")
    for value in (b'{"error"', b'{"object":"error"', b'{"object": "error"')
)
_EVENT_ENDS = (b"\n\n", b"\n\r\n")  # an empty line; lines end in LF or CRLF
_EVENT_END = re.compile(rb"\n\r?\n")
_TAIL_BYTES = 2  # so much of an event's end may have arrived with earlier bytes


class UpstreamError(Exception):
    """A model server did not give an answer."""


class UpstreamAwayError(UpstreamError):
    """It does not answer, or no longer has the model; nothing was streamed."""


class UpstreamSlowError(UpstreamAwayError):
    """It has not answered in the time that it has; asking again would double its work."""


class UpstreamRefusalError(UpstreamError):
    """It refuses the request; the message says why."""


class UpstreamBrokenError(UpstreamError):
    """Its answer ended before it was complete."""


class UpstreamFailedError(UpstreamBrokenError):
    """It ended its answer with an error; the message is what it says."""


class Upstream:
    """A pool of connections to all model servers, opened with the first request."""

    def __init__(self, read_seconds: float, answer_seconds: float) -> None:
        """Wait at most `read_seconds` for the next piece of an answer.

        An answer that is not streamed may take `answer_seconds`, because none of it arrives before
        all of it was generated.
        """
        self._read_seconds = read_seconds
        self._answer_seconds = answer_seconds
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(self, target: Target, path: Path, body: bytes) -> bytes:
        """Return the whole answer.

        Raises `UpstreamAwayError`, `UpstreamSlowError` and `UpstreamRefusalError`.
        """
        response = await self._send(target, path, body, _JSON, self._answer_seconds)
        try:
            async with asyncio.timeout(self._read_seconds):
                content = await _read_answer(response)
        except _FAILURES as error:
            raise _explain(error) from None
        finally:
            response.release()
        if not _is_completion(content):
            raise UpstreamAwayError("what it answered is no completion")
        return rename_model(content, target)

    async def open(self, target: Target, path: Path, body: bytes) -> UpstreamStream:
        """Return the answer as a stream whose first event has arrived; raise what `ask` does."""
        response = await self._send(target, path, body, _EVENTS, self._read_seconds)
        stream = UpstreamStream(response, target, self._read_seconds)
        try:
            await stream.read_first()
        except BaseException:
            await stream.aclose()
            raise
        return stream

    async def _send(
        self, target: Target, path: Path, body: bytes, media_type: str, seconds: float
    ) -> aiohttp.ClientResponse:
        """Return the server's answer with its body unread, if its status and type are good.

        The answer must begin within `seconds`. `sock_read` only limits the time in which nothing
        arrives; a limit on the whole wait stops a server that sends its headers byte by byte, or
        preliminary answers for ever.
        """
        timeout = aiohttp.ClientTimeout(
            total=None,
            connect=self._read_seconds,  # including the wait for a free connection
            sock_connect=_CONNECT_SECONDS,
            sock_read=seconds,
        )
        try:
            async with asyncio.timeout(self._read_seconds + seconds):
                response = await self._open_session().post(
                    f"{target.pool.url}{path}",
                    data=body,
                    headers=_build_headers(target),
                    allow_redirects=False,
                    timeout=timeout,
                )
                if response.status == 200 and _is_as_asked(response, media_type):
                    return response
                try:
                    problem = await _read_refusal(response, target)
                finally:
                    response.release()
        except _FAILURES as error:
            raise _explain(error) from None
        raise problem

    def _open_session(self) -> aiohttp.ClientSession:
        """Return the pool, which belongs to the event loop that opened it."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=_Connector(limit=_MAX_CONNECTIONS, keepalive_timeout=_IDLE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("User-Agent",),
            )
        return self._session


class _Connector(aiohttp.TCPConnector):
    """Connections on which nothing has arrived before a request is sent.

    If a server or proxy sends one answer too many, the next request, perhaps another tenant's,
    would otherwise get it as its own.
    """

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[aiohttp.tracing.Trace],
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.connector.Connection:
        """Return a connection that is open and on which nothing has arrived."""
        while True:
            connection = await super().connect(req, traces, timeout)
            if connection.protocol is None or not connection.protocol.should_close:
                return connection
            connection.close()


class UpstreamStream:
    """The events of one answer, each passed on once complete, with the model's public name."""

    def __init__(
        self, response: aiohttp.ClientResponse, target: Target, read_seconds: float
    ) -> None:
        self._response = response
        self._target = target
        self._read_seconds = read_seconds
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._tail = b""
        self._first = b""
        self._is_over = False

    async def read_first(self) -> None:
        """Wait for the first event. Raises `UpstreamAwayError` or `UpstreamSlowError`."""
        self._first = await self._read_events()
        if not self._first or _find_line(self._first, _ERRORS) == 0:
            raise UpstreamAwayError("it began with an error")

    async def events(self) -> AsyncIterator[bytes]:
        """Yield every event and the end mark.

        Raises `UpstreamBrokenError` if the mark is missing, and `UpstreamFailedError` in place of
        an event that reports an error, whatever follows it.
        """
        events = self._first
        while events:
            length = _find_end(events)
            failure = _find_line(events[:length], _ERRORS)
            if failure is not None:
                if before := events[: _find_last_end(events[:failure])]:
                    yield before
                raise UpstreamFailedError(_read_failure(events[failure:], self._target))
            self._is_over = length is not None
            yield events[:length]
            if self._is_over:
                return
            try:
                events = await self._read_events()
            except UpstreamAwayError as error:
                raise UpstreamBrokenError(str(error)) from None
        raise UpstreamBrokenError("it ended without its end mark")

    async def aclose(self) -> None:
        """Close the connection, which stops a server that is still generating.

        After the end mark, only the end of the body is missing; once it is read, the connection can
        be reused.
        """
        try:
            if self._is_over:
                with contextlib.suppress(*_FAILURES):
                    async with asyncio.timeout(_LAST_BYTES_SECONDS):
                        await self._response.content.readany()
        finally:
            self._response.release()

    async def _read_events(self) -> bytes:
        """Return the next complete events, as many as have arrived; empty at the end.

        Raises `UpstreamAwayError`, also for an event of more than `_MAX_EVENT_BYTES`.
        """
        try:
            async with asyncio.timeout(self._read_seconds):
                while chunk := await self._response.content.readany():
                    if events := self._add(chunk):
                        return rename_model(events, self._target)
                    if self._pending_bytes > _MAX_EVENT_BYTES:
                        raise UpstreamAwayError(f"an event of more than {_MAX_EVENT_BYTES} bytes")
        except _FAILURES as error:
            raise _explain(error) from None
        return b""

    def _add(self, chunk: bytes) -> bytes:
        """Keep what has arrived, and return the events that it completes.

        Only the new bytes are searched, so that the time for a long event does not grow with the
        square of its size.
        """
        seen = self._tail + chunk
        end = _find_last_end(seen)
        if not end:
            self._keep(chunk, seen)
            return b""
        end -= len(self._tail)
        events = b"".join([*self._pending, chunk[:end]])
        self._pending, self._pending_bytes = [], 0
        self._keep(chunk[end:], chunk[end:])
        return events

    def _keep(self, chunk: bytes, seen: bytes) -> None:
        self._pending.append(chunk)
        self._pending_bytes += len(chunk)
        self._tail = seen[-_TAIL_BYTES:]


def _find_end(events: bytes) -> int | None:
    """Return where the event with the end mark ends, if it is among these whole events.

    What comes after it is no part of the answer.
    """
    mark = _find_line(events, _ENDS)
    if mark is None:
        return None
    found = _EVENT_END.search(events, mark)
    return found.end() if found else len(events)


def _find_line(events: bytes, marks: Sequence[bytes]) -> int | None:
    """Return where the first line with one of these marks begins."""
    lines = b"\n" + events
    return min((place for mark in marks if (place := lines.find(mark)) >= 0), default=None)


def _find_last_end(events: bytes) -> int:
    """Return where the last whole event ends, 0 if none does."""
    return max(events.rfind(mark) + len(mark) if mark in events else 0 for mark in _EVENT_ENDS)


def rename_model(content: bytes, target: Target) -> bytes:
    """Return `content` with the model's public name.

    In JSON, quotation marks inside strings are escaped, so only the field itself can match.
    """
    public = json.dumps(target.public_name).encode()
    served = json.dumps(target.served_name).encode()
    return content.replace(b'"model":' + served, b'"model":' + public)


def _explain(failure: Exception) -> UpstreamAwayError:
    """Return the error for one of `_FAILURES`; without a connection, nothing was asked yet."""
    is_slow = isinstance(failure, TimeoutError)
    if is_slow and not isinstance(failure, aiohttp.ConnectionTimeoutError):
        return UpstreamSlowError(type(failure).__name__)
    return UpstreamAwayError(type(failure).__name__)


def _build_headers(target: Target) -> dict[str, str]:
    """Return all headers for a server. The request id is ours; vLLM identifies requests by it."""
    headers = {
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
        "X-Request-Id": uuid4().hex,
        **build_trace_headers(),
    }
    if target.pool.api_key is not None:
        headers["Authorization"] = f"Bearer {target.pool.api_key.get_secret_value()}"
    return headers


def _is_as_asked(response: aiohttp.ClientResponse, media_type: str) -> bool:
    """Return whether an answer is of this type, and neither compressed nor encoded otherwise."""
    encoding = response.headers.get("Content-Encoding", "identity")
    return response.content_type == media_type and encoding.strip().lower() == "identity"


def _is_completion(content: bytes) -> bool:
    """Return whether an answer is a whole completion; of a large one, only the ends are read."""
    if len(content) > _MAX_PARSED_BYTES:
        return content.lstrip().startswith(b"{") and content.rstrip().endswith(b"}")
    body = _read_json(content)
    return isinstance(body, dict) and isinstance(body.get("choices"), list)


def _read_json(content: bytes) -> Any:
    """Return the value that `content` is the JSON of, or None."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


async def _read_answer(response: aiohttp.ClientResponse) -> bytes:
    """Return the whole body. Raises `UpstreamRefusalError` if it is larger than allowed."""
    pieces, size = [], 0
    while chunk := await response.content.readany():
        pieces.append(chunk)
        size += len(chunk)
        if size > _MAX_ANSWER_BYTES:
            raise UpstreamRefusalError(
                f"Its answer has more than {_MAX_ANSWER_BYTES} bytes. Ask for fewer tokens, "
                "choices or log probabilities, or for a stream."
            )
    return b"".join(pieces)


async def _read_refusal(response: aiohttp.ClientResponse, target: Target) -> UpstreamError:
    """Return the error for an answer with another status or type than was asked for."""
    if response.status not in _REFUSALS:
        return UpstreamAwayError(f"status {response.status}, {response.content_type}")
    content = b""
    while len(content) <= _MAX_ERROR_BYTES and (chunk := await response.content.readany()):
        content += chunk
    return UpstreamRefusalError(_read_message(content, target))


def _read_failure(events: bytes, target: Target) -> str:
    """Return the message of the first of these events, which reports an error."""
    line = events.split(b"\n", 1)[0]
    return _read_message(line.removeprefix(b"data:"), target)


def _read_message(content: bytes, target: Target) -> str:
    """Return a server's error message, without secrets, and with the model's public name."""
    body = _read_json(content)
    error = body.get("error", body) if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    text = message if isinstance(message, str) else "It gave no reason."
    named = text.replace(target.served_name, target.public_name)
    return redact(" ".join(named.split()))[:_MAX_MESSAGE_CHARACTERS]
