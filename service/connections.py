"""How long a connection may take to ask: uvicorn itself waits for ever."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_TOO_SLOW = (
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n"
    b"content-type: text/plain; charset=utf-8\r\ncontent-length: 58\r\n\r\n"
    b"The request line and headers did not arrive soon enough.\r\n"
)


class PunctualProtocol(H11Protocol):
    """HTTP/1.1 by h11, whose connections are closed unless a request's headers come in time.

    A connection that says nothing, or one byte now and then, costs its sender next to nothing and
    the server a descriptor for good (slowloris). Between requests uvicorn's own keep-alive
    timeout counts, for bodies the limit of `service.middleware`.
    """

    header_seconds: ClassVar[float] = 15.0
    """From the first byte, of a new connection from its beginning, to the end of the headers; as
    long as the proxy of `deploy/compose` waits."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Serve what has arrived; wait for the rest of a request that has begun."""
        super().handle_events()
        if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._wait()
        else:
            self._stop_waiting()

    def _wait(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self._give_up)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self.conn.trailing_data[0]:
            self.transport.write(_TOO_SLOW)
        self.transport.close()
