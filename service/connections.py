"""Limits on what a connection may cost: uvicorn itself waits for ever and reads all it is sent."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, ClassVar, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.command_lines import HEAD_BYTES

MOST_HEADERS = 100
"""Largest number of lines in a request's head, or in the trailer of a chunked body; each takes the
event loop 30 µs. The same as Apache's limit."""

MOST_PIECES = 10_000
"""Largest number of pieces of a body: its chunks if it is chunked, otherwise whatever arrives at a
time. Each takes the event loop 85 µs. 8 MiB in packets of 1,448 bytes are 5,800 pieces."""

MOST_BLANKS = 100
"""Largest number of blanks in a row: the time that h11 takes to reject a header grows with the
square of that number."""

MOST_CHUNK_LINE_BYTES = 256
"""Longest line before a chunk, for the same reason; its number has 20 digits at most."""

PIECES_A_TURN = 64
"""Number of pieces that are read before other connections have their turn: 5 ms."""

LINGER_SECONDS = 5.0
"""How long the connection stays open for a client that was answered before it had sent everything,
so that it can read the answer."""

UNREAD_SECONDS = 60.0
"""How long a client may read nothing of what is sent to it; streams of events allow the same."""

_TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 58\r\n\r\n"
    b"The request line and headers did not arrive soon enough.\r\n"
)
_NEVER_ACCEPTED = re.compile(rb"[\x00\x0b\x0c]")
_HEAD_END = re.compile(rb"\n\r?\n")
_LAST_CHUNK = re.compile(rb"(\r\n)?0+[ \t;\r\n]")  # may begin with the previous chunk's line end


class _BoundedConnection(h11.Connection):
    """h11's reading of requests, with limits on the number of their parts."""

    def __init__(self, max_incomplete_event_size: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size)
        self.pieces = 0
        """Number of pieces of the current request's body so far."""
        self.complaint: str | None = None
        """What was wrong with a request that exceeds a limit."""
        self.is_behind = False
        """Whether this turn ended before everything that has arrived was read."""
        self._left = PIECES_A_TURN
        self._is_chunked = self._is_at_border = self._is_at_end = False

    def begin_turn(self) -> None:
        """Allow further pieces to be read."""
        self._left, self.is_behind = PIECES_A_TURN, False

    def next_event(self) -> Any:
        """Return the next event as h11 does, or `NEED_DATA` once the turn is over.

        Raises `h11.RemoteProtocolError` for a request that exceeds a limit.
        """
        is_in_body = self.their_state is h11.SEND_BODY
        if is_in_body and not self._left:
            self.is_behind = True
            return h11.NEED_DATA
        if self.their_state is h11.IDLE or (is_in_body and self._is_at_border):
            self._check_waiting(is_in_body)
        event = super().next_event()
        if isinstance(event, h11.Request):
            self.pieces = 0
            names = [name for name, _ in event.headers]
            self._is_chunked = self._is_at_border = b"transfer-encoding" in names
            self._is_at_end = False
        elif isinstance(event, h11.Data):
            self._count(event)
        return event

    def send(self, event: Any) -> bytes | None:  # type: ignore[override]
        """Return what to send; an answer to a request that is still coming ends the connection."""
        if isinstance(event, h11.Response) and self.their_state is h11.SEND_BODY:
            headers = [*event.headers, (b"connection", b"close")]
            event = h11.Response(
                status_code=event.status_code, headers=headers, reason=event.reason
            )
        output: bytes | None = super().send(event)
        return output

    def has_unread(self) -> bool:
        """Return whether more of a request may come, or has come and was not read."""
        return self.their_state in (h11.SEND_BODY, h11.ERROR) or bool(self.trailing_data[0])

    def _count(self, piece: h11.Data) -> None:
        self.pieces += 1
        self._left -= 1
        self._is_at_border = self._is_chunked and bool(piece.chunk_end)
        if self.pieces > MOST_PIECES:
            self._refuse(f"The body comes in over {MOST_PIECES} pieces. Send larger ones.")

    def _check_waiting(self, is_in_body: bool) -> None:
        """Refuse what is costly to parse: in a head, before a chunk, and after the last one."""
        waiting = self.trailing_data[0]
        if is_in_body and not self._is_at_end:
            line = waiting.removeprefix(b"\r\n")[: MOST_CHUNK_LINE_BYTES + 1]
            if len(line) > MOST_CHUNK_LINE_BYTES and b"\n" not in line:
                self._refuse(f"The line before a chunk has over {MOST_CHUNK_LINE_BYTES} bytes.")
            self._is_at_end = bool(_LAST_CHUNK.match(waiting))
            if not self._is_at_end:
                return
        end = _HEAD_END.search(waiting)
        head = waiting[: end.start()] if end else waiting
        if head.count(b"\n") > MOST_HEADERS:
            self._refuse(f"The request has over {MOST_HEADERS} headers. Send fewer.")
        if b" " * (MOST_BLANKS + 1) in head.replace(b"\t", b" ") or _NEVER_ACCEPTED.search(head):
            self._refuse(f"A header has over {MOST_BLANKS} blanks in a row, or control characters.")

    def _refuse(self, complaint: str) -> None:
        self.complaint = complaint
        raise h11.RemoteProtocolError(complaint)


class _LingeringTransport:
    """A transport that stays open for a while if closing it at once could lose an answer.

    Closing a socket with unread data resets the connection, and the client may lose what it has not
    read yet. So for `LINGER_SECONDS` everything that still arrives is read and dropped. What the
    client does not read is kept for at most `UNREAD_SECONDS`, instead of for ever.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        has_unread: Callable[[], bool],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._transport = transport
        self._has_unread = has_unread
        self._loop = loop
        self._is_lingering = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Return whether nothing is served any more."""
        return self._is_lingering or self._transport.is_closing()

    def close(self) -> None:
        """Close: after a while if more of a request may arrive, otherwise, or repeated, at once."""
        if self.is_closing() or not self._has_unread():
            self._transport.close()
            self._loop.call_later(UNREAD_SECONDS, self._transport.abort)
            return
        self._is_lingering = True
        self._transport.write_eof()
        self._transport.resume_reading()
        self._loop.call_later(LINGER_SECONDS, self.close)


class PunctualProtocol(H11Protocol):
    """HTTP/1.1 by h11 that closes connections whose request headers do not arrive in time.

    A connection that sends nothing, or a byte now and then, costs its sender next to nothing but
    takes a descriptor of the server for good (slowloris). Between requests, uvicorn's own
    keep-alive timeout applies; to bodies, the limit of `service.middleware`.
    """

    header_seconds: ClassVar[float] = 15.0
    """Time limit for a request's headers, from the request's first byte or, on a new connection,
    from its opening. The proxy of `deploy/compose` waits as long."""

    unread_seconds: ClassVar[float] = UNREAD_SECONDS
    """How long the client may read nothing while data waits to be sent."""

    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None
    _next_turn: asyncio.Handle | None = None
    conn: _BoundedConnection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        self.conn = _BoundedConnection(self.config.h11_max_incomplete_event_size or HEAD_BYTES)
        lingering = _LingeringTransport(transport, self.conn.has_unread, self.loop)
        super().connection_made(cast(asyncio.Transport, lingering))
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel all timers."""
        self._stop_waiting()
        self._stop_counting()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Pause until the client has read some, and give up after `unread_seconds`."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """Continue: the client has read some."""
        self._stop_counting()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        """Serve what has arrived, unless nobody will answer it any more."""
        if not self.transport.is_closing():
            super().data_received(data)

    def handle_events(self) -> None:
        """Serve what has arrived, for one turn; start the timer if headers are incomplete."""
        self.conn.begin_turn()
        super().handle_events()
        if self.conn.is_behind and self._next_turn is None:
            self.transport.pause_reading()
            self._next_turn = self.loop.call_soon(self._take_turn)
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._wait()
        else:
            self._stop_waiting()

    def send_400_response(self, msg: str) -> None:
        """Refuse the request, naming the limit if it exceeds one, and end the connection."""
        try:
            super().send_400_response(self.conn.complaint or msg)
        except h11.LocalProtocolError:  # it is being answered already
            self.transport.close()

    def _take_turn(self) -> None:
        """Serve more of what has arrived; read from the socket again once all is served."""
        self._next_turn = None
        if self.transport.is_closing():
            return
        self.handle_events()
        if self._next_turn is None and not self.flow.read_paused:
            self.transport.resume_reading()

    def _wait(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_counting(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _give_up(self) -> None:
        self._deadline = None
        if self.conn.trailing_data[0]:
            self.transport.write(_TOO_SLOW)
        self.transport.close()
