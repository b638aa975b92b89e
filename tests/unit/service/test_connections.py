"""Connections that ask too slowly, on a real socket."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.importer import import_from_string

from service.command_lines import HEADER_LIMITS
from service.connections import MOST_HEADERS, MOST_PIECES, PIECES_A_TURN, PunctualProtocol

BEGUN = b"POST / HTTP/1.1\r\nHost: here\r\n"
WHOLE = BEGUN + b"Content-Length: 2\r\n\r\n"
PATIENCE = 30.0
"""Seconds after which a test gives up."""


class HastyProtocol(PunctualProtocol):
    """One that waits long enough for whoever does not dawdle, and no longer."""

    header_seconds = 0.5
    unread_seconds = 0.5
    made: ClassVar[list[PunctualProtocol]] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.made.append(self)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the body, or, without reading it, with nothing."""
    body, has_more = b"", scope["path"] == "/"
    while has_more:
        message = await receive()
        body, has_more = body + message.get("body", b""), message.get("more_body", False)
    if scope["path"] == "/large":
        body = b"x" * 2**23
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """Where the protocol serves."""
    config = uvicorn.Config(
        echo, port=0, http=HastyProtocol, lifespan="off", log_level="critical",
        timeout_keep_alive=60,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(PATIENCE)


@contextmanager
def connect(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        yield connection


def read_all(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    return b"".join(iter(lambda: connection.recv(4096), b""))


def read_answer(connection: socket.socket) -> bytes:
    """One answer of `echo`'s, to a body of two bytes."""
    found = b""
    while not found.endswith(b"ok"):
        found += connection.recv(4096)
    return found


def dribble(connection: socket.socket) -> bytes:
    """What comes back while a byte of another header is sent now and then."""
    connection.settimeout(0.05)
    found, started = b"", time.monotonic()
    while time.monotonic() < started + PATIENCE:
        try:
            connection.sendall(b"x")
            received = connection.recv(4096)
        except TimeoutError:
            continue
        except ConnectionError:
            return found
        if not received:
            return found
        found += received
    return pytest.fail("the connection is still open")


def test_headers_that_dribble_in_are_a_408(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(BEGUN)
        answer = dribble(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 Request Timeout\r\nconnection: close")
    assert b"content-length: %d" % len(body) in head


def test_a_connection_that_says_nothing_is_closed(port: int) -> None:
    with connect(port) as connection:
        assert read_all(connection) == b""


def test_a_body_may_take_longer_and_the_next_request_may_come_later(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(WHOLE)
        time.sleep(3 * HastyProtocol.header_seconds)
        connection.sendall(b"ok")
        assert read_answer(connection).startswith(b"HTTP/1.1 200")
        time.sleep(3 * HastyProtocol.header_seconds)
        connection.sendall(WHOLE + b"ok")
        assert read_answer(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("is_pipelined", [True, False])
def test_a_later_request_has_the_same_deadline(port: int, is_pipelined: bool) -> None:
    with connect(port) as connection:
        connection.sendall(WHOLE + b"ok" + (BEGUN if is_pipelined else b""))
        first = read_answer(connection)
        if not is_pipelined:
            connection.sendall(BEGUN)
        assert first.startswith(b"HTTP/1.1 200")
        assert read_all(connection).startswith(b"HTTP/1.1 408")


def test_what_is_no_request_is_refused_at_once(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(b"\r\n\r\n\r\n")
        assert read_all(connection).startswith(b"HTTP/1.1 400")


CHUNKED = BEGUN + b"Transfer-Encoding: chunked\r\n\r\n"
EARLY = CHUNKED.replace(b"POST /", b"POST /early")


def send_all(connection: socket.socket, data: bytes) -> None:
    """Send until the other side has had enough."""
    with suppress(ConnectionError):
        connection.sendall(data)


def test_a_body_in_many_pieces_is_read_in_turns(port: int) -> None:
    pieces = 10 * PIECES_A_TURN
    with connect(port) as connection:
        connection.sendall(CHUNKED + b"1\r\nx\r\n" * pieces + b"0\r\n\r\n" + WHOLE + b"ok")
        assert read_answer(connection).partition(b"\r\n\r\n")[2].startswith(b"x" * pieces)


def test_a_body_in_too_many_pieces_is_refused(port: int) -> None:
    with connect(port) as connection:
        send_all(connection, CHUNKED + b"1\r\nx\r\n" * (4 * MOST_PIECES))
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"over 10000 pieces" in answer


def test_what_comes_after_an_answer_is_not_parsed(port: int) -> None:
    with connect(port) as connection:
        send_all(connection, EARLY)
        send_all(connection, b"1\r\nx\r\n" * (4 * MOST_PIECES))
        answer = read_all(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in head
    assert body == b""
    assert HastyProtocol.made[-1].conn.pieces < 10 * PIECES_A_TURN


def test_whoever_goes_on_slowly_after_an_answer_is_hung_up_on(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(EARLY)
        assert dribble(connection).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("before", "after"),
    [(b"GET / HTTP/1.1\r\nHost: here\r\n", b"\r\n"), (CHUNKED + b"1\r\nx\r\n0\r\n", b"\r\n")],
)
def test_headers_are_counted_before_they_are_parsed(port: int, before: bytes, after: bytes) -> None:
    with connect(port) as connection:
        connection.sendall(before + b"a: b\r\n" * (MOST_HEADERS - 10) + after + WHOLE + b"ok")
        assert read_answer(connection).startswith(b"HTTP/1.1 200")
    with connect(port) as connection:
        connection.sendall(before + b"a: b\r\n" * (MOST_HEADERS + 1) + after)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"over 100 headers" in answer


@pytest.mark.parametrize(
    ("request_start", "says"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\nx:" + b" " * 30_000 + b"a\r\n\r\n", b"blanks in a row"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nx:" + b" \t" * 30_000, b"blanks in a row"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nx: a\x0b\r\n\r\n", b"control characters"),
        (CHUNKED + b"1;" + b" " * 30_000 + b"\nX\r\n", b"line before a chunk"),
        (CHUNKED + b"1\r\nx\r\n1;" + b"a" * 300, b"line before a chunk"),
        (CHUNKED + b"0\r\na:" + b" " * 30_000 + b"\x00", b"blanks in a row"),
    ],
)
def test_what_h11_would_take_long_to_refuse_is_refused_before(
    port: int, request_start: bytes, says: bytes
) -> None:
    """Its expressions for headers and chunks go back and forth over blanks."""
    with connect(port) as connection:
        send_all(connection, request_start)
        answer = read_all(connection)
    assert answer.startswith(b"HTTP/1.1 400")
    assert says in answer


def test_lines_after_the_last_chunk_are_counted_however_they_come(port: int) -> None:
    with connect(port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(CHUNKED + b"0\r\n")
        time.sleep(0.1)
        send_all(connection, b"a:\n" * 20_000 + b"\n")
        assert b"over 100 headers" in read_all(connection)


def test_a_client_that_reads_nothing_is_not_waited_for(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: here\r\n\r\n")
        deadline = time.monotonic() + PATIENCE
        while not (HastyProtocol.made and HastyProtocol.made[-1].transport.is_closing()):
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_many_lines_in_a_body_are_no_headers(port: int) -> None:
    lines = b"0\r\n" * (2 * MOST_HEADERS)
    with connect(port) as connection:
        connection.sendall(BEGUN + b"Content-Length: %d\r\n\r\n" % len(lines) + lines)
        connection.sendall(WHOLE + b"ok")
        assert lines in read_answer(connection)


def test_the_api_and_the_proxy_before_it_wait_equally_long() -> None:
    assert import_from_string(HEADER_LIMITS[1]) is PunctualProtocol
    proxy = (Path(__file__).parents[3] / "deploy" / "compose" / "haproxy.cfg").read_text()
    assert f"timeout http-request {PunctualProtocol.header_seconds:.0f}s" in proxy
