"""Streams from a server, however its bytes are cut; names changed in the field alone."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.gateway import upstream as gateway_upstream
from service.gateway.routing import Target
from service.gateway.upstream import (
    Upstream,
    UpstreamAwayError,
    UpstreamBrokenError,
    UpstreamFailedError,
    UpstreamRefusalError,
    UpstreamSlowError,
    UpstreamStream,
    rename_model,
)
from service.serving.pools import ServingPool

EVENTS = b'data: {"model":"mv_1.abcd","text":"a"}\n\ndata: {"model":"mv_1.abcd","text":"b"}\n\n'
END = b"data: [DONE]\n\n"
WHOLE = b'{"choices":[],"model":"mv_1.abcd"}'
LAST = b"0\r\n\r\n"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Work = Callable[[Upstream, Target], Awaitable[object]]
GUARD_SECONDS = 30


def make_target(port: int = 8000) -> Target:
    pool = ServingPool(name="main", url=f"http://127.0.0.1:{port}", base_model="tiny")
    return Target(pool, "mv_1.abcd", "mv_1")


TARGET = make_target()


class Body:
    """What has arrived of a body, piece by piece; it may break off."""

    def __init__(self, pieces: Sequence[bytes], breaks: bool = False) -> None:
        self._pieces = list(pieces)
        self._breaks = breaks

    async def readany(self) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if self._breaks:
            raise aiohttp.ClientPayloadError
        return b""


def read(pieces: Sequence[bytes], breaks: bool = False) -> bytes:
    """Everything the gateway would send on."""

    async def run() -> bytes:
        response: Any = SimpleNamespace(content=Body(pieces, breaks), release=lambda: None)
        stream = UpstreamStream(response, TARGET, 5)
        await stream.read_first()
        return await read_to_end(stream)

    return asyncio.run(run())


def read_until_it_fails(pieces: Sequence[bytes]) -> tuple[bytes, UpstreamFailedError]:
    """What the gateway would send on, and the error with which the stream ends."""

    async def run() -> tuple[bytes, UpstreamFailedError]:
        response: Any = SimpleNamespace(content=Body(pieces), release=lambda: None)
        stream, passed = UpstreamStream(response, TARGET, 5), b""
        await stream.read_first()
        try:
            async for events in stream.events():
                passed += events
        except UpstreamFailedError as failure:
            return passed, failure
        raise AssertionError("the stream ended without an error")

    return asyncio.run(run())


async def read_to_end(stream: UpstreamStream) -> bytes:
    try:
        return b"".join([events async for events in stream.events()])
    finally:
        await stream.aclose()


class Server:
    """Answers every request with the same bytes, and remembers what it saw."""

    def __init__(self, answer: bytes, *, hangs_up: bool = False) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self.connections = 0
        self._hangs_up = hangs_up

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.requests.append(head)
                await reader.readexactly(2)  # the body, {}
                writer.write(self.answer)
                await writer.drain()
                if self._hangs_up:
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serve(
    server: Handler, read_seconds: float = 5, answer_seconds: float = 5
) -> AsyncIterator[tuple[Upstream, Target]]:
    listener = await asyncio.start_server(server, "127.0.0.1", 0)
    upstream = Upstream(read_seconds, answer_seconds)
    try:
        yield upstream, make_target(listener.sockets[0].getsockname()[1])
    finally:
        await upstream.aclose()
        listener.close()


def ask(server: Server, work: Work, times: int = 1) -> None:
    async def run() -> None:
        async with serve(server) as (upstream, target):
            for _ in range(times):
                await work(upstream, target)

    asyncio.run(run())


async def ask_whole(upstream: Upstream, target: Target) -> bytes:
    return await upstream.ask(target, "/v1/completions", b"{}")


async def stream_whole(upstream: Upstream, target: Target) -> bytes:
    return await read_to_end(await upstream.open(target, "/v1/completions", b"{}"))


async def leave_early(upstream: Upstream, target: Target) -> None:
    stream = await upstream.open(target, "/v1/completions", b"{}")
    await stream.aclose()


def build_head(*headers: str, status: int = 200) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status} Any", *headers, "", ""]).encode()


def build_answer(status: int, content: bytes, *headers: str) -> bytes:
    length = f"Content-Length: {len(content)}"
    return build_head("Content-Type: application/json", length, *headers, status=status) + content


def build_stream(content: bytes) -> bytes:
    head = build_head("Content-Type: text/event-stream", "Transfer-Encoding: chunked")
    return head + f"{len(content):x}\r\n".encode() + content + b"\r\n"


@settings(deadline=None)
@given(
    st.lists(st.integers(1, len(EVENTS + END) - 1), max_size=8, unique=True),
    st.sampled_from([b"\n", b"\r\n"]),
)
def test_events_survive_any_cut(cuts: list[int], line_end: bytes) -> None:
    content = (EVENTS + END).replace(b"\n", line_end)
    edges = [0, *sorted(cuts), len(content)]
    pieces = [content[a:b] for a, b in pairwise(edges)]
    expected = content.replace(b"mv_1.abcd", b"mv_1")
    assert read(pieces) == expected


class Chunk(bytes):
    """A part of a body that counts how many bytes it is appended to."""

    before = 0

    def __radd__(self, other: bytes) -> bytes:
        Chunk.before += len(other)
        return bytes(other) + bytes(self)


def test_a_long_event_is_put_together_once() -> None:
    pieces = [Chunk(b"data: "), *[Chunk(b"x" * 100)] * 1000, Chunk(b"\n"), Chunk(b"\n" + END)]
    assert read(pieces) == b"".join(pieces)
    assert Chunk.before <= 2 * len(pieces)


def test_too_long_an_event_breaks_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_upstream, "_MAX_EVENT_BYTES", 10)
    assert read([EVENTS, END[:9], END[9:]]) == (EVENTS + END).replace(b"mv_1.abcd", b"mv_1")
    with pytest.raises(UpstreamBrokenError, match="more than 10 bytes"):
        read([EVENTS, b"data: ", b"xxxxx", b"\n\n", END])


def test_too_long_an_answer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_upstream, "_MAX_ANSWER_BYTES", len(WHOLE))
    ask(Server(build_answer(200, WHOLE)), ask_whole)
    with pytest.raises(UpstreamRefusalError, match=f"more than {len(WHOLE)} bytes"):
        ask(Server(build_answer(200, WHOLE + b" ")), ask_whole)


def test_a_text_that_looks_like_the_end_mark_is_not_the_end() -> None:
    text = b'data: {"model":"mv_1.abcd","text":"data: [DONE]"}\n\n'
    expected = (text + EVENTS + END).replace(b"mv_1.abcd", b"mv_1")
    assert read([text, EVENTS, END]) == expected


@pytest.mark.parametrize("ending", [END, b"data:[DONE]\r\n\r\n", b"data: [DONE]\nid: 1\n\n"])
@pytest.mark.parametrize("after", [b"HTTP/1.1 200 OK\r\n\r\n", EVENTS, EVENTS + END])
def test_nothing_after_the_end_mark_is_passed_on(ending: bytes, after: bytes) -> None:
    expected = EVENTS.replace(b"mv_1.abcd", b"mv_1") + ending
    assert read([EVENTS + ending + after]) == expected
    assert read([EVENTS, ending + after, after]) == expected
    assert read([ending + after]) == ending


@pytest.mark.parametrize("form", ['{"error":%s}', '{"error": %s}', '{"object": "error",%s'])
@pytest.mark.parametrize("ends", [b"\n\n", b"\r\n\r\n"])
def test_an_error_in_the_middle_is_not_passed_on_as_it_came(form: str, ends: bytes) -> None:
    """As vLLM tells of one: as an event, with the end mark after it."""
    told = json.dumps({"message": "mv_1.abcd died. Authorization: Bearer between-us-alone"})
    document = form % (told if form.endswith("}") else told[1:])
    error = b"event: error\ndata: " + document.encode() + ends
    text = json.dumps({"model": "mv_1.abcd", "text": f"data: {document}"}).encode()
    before = EVENTS + b"data: " + text + ends
    for pieces in ([before + error + END], [before, error, END], [before, error + EVENTS + END]):
        passed, failure = read_until_it_fails(pieces)
        assert passed == before.replace(b'"model":"mv_1.abcd"', b'"model":"mv_1"')
        assert str(failure).startswith("mv_1 died. Authorization: ")
        assert "between" not in str(failure)


@pytest.mark.parametrize("breaks", [True, False])
def test_a_stream_without_its_end_mark_is_broken(breaks: bool) -> None:
    with pytest.raises(UpstreamBrokenError):
        read([EVENTS], breaks)


@pytest.mark.parametrize(
    "chunks", [[], [b""], [b"data: {"], [b'data: {"error": {"message": "EngineDeadError"}}\n\n']]
)
def test_a_stream_that_brings_nothing_may_be_asked_again(chunks: list[bytes]) -> None:
    with pytest.raises(UpstreamAwayError):
        read(chunks, breaks=True)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(build_answer(200, b"<html>\n\n"), id="no JSON"),
        pytest.param(build_answer(200, b'{"error":{"message":"x"}}'), id="an error"),
        pytest.param(build_answer(200, b"[" * 10_000), id="deep"),
        pytest.param(build_answer(200, WHOLE[:5]) + WHOLE[5:], id="longer than its length"),
        pytest.param(build_head("Content-Type: application/json") + WHOLE[:5], id="cut off"),
        pytest.param(build_answer(200, gzip.compress(WHOLE), "Content-Encoding: gzip"), id="gzip"),
        pytest.param(build_answer(200, WHOLE).replace(b"/json", b"/html"), id="another type"),
        pytest.param(build_answer(200, WHOLE).replace(b"Content-Type", b"Type"), id="no type"),
        pytest.param(build_stream(EVENTS + END) + LAST, id="a stream"),
    ],
)
def test_what_is_no_completion_is_an_outage(answer: bytes) -> None:
    with pytest.raises(UpstreamAwayError):
        ask(Server(answer, hangs_up=True), ask_whole)


@pytest.mark.parametrize("cut", [0, 1])
def test_of_a_large_answer_the_ends_are_read(cut: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway_upstream, "_MAX_PARSED_BYTES", 10)
    content = WHOLE[: len(WHOLE) - cut] + b"\n"
    with pytest.raises(UpstreamAwayError) if cut else nullcontext():
        ask(Server(build_answer(200, content)), ask_whole)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(build_answer(200, b"<html>\n\n"), id="no events"),
        pytest.param(build_answer(200, WHOLE), id="a whole answer"),
        pytest.param(
            build_stream(gzip.compress(EVENTS + END) + b"\n\n").replace(
                b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n", 1
            )
            + LAST,
            id="gzip",
        ),
    ],
)
def test_what_is_no_stream_of_events_is_an_outage(answer: bytes) -> None:
    with pytest.raises(UpstreamAwayError):
        ask(Server(answer, hangs_up=True), stream_whole)


@pytest.mark.parametrize(
    ("begin", "piece", "work", "error"),
    [
        pytest.param(b"", build_head(status=103), ask_whole, UpstreamAwayError, id="interim"),
        pytest.param(build_head()[:-2], b"A: b\r\n", ask_whole, UpstreamAwayError, id="headers"),
        pytest.param(
            build_answer(200, b" " * 10**6)[: -(10**6)],
            b" ",
            ask_whole,
            UpstreamAwayError,
            id="answer",
        ),
        pytest.param(
            build_answer(400, b" " * 10**6)[: -(10**6)],
            b" ",
            ask_whole,
            UpstreamAwayError,
            id="refusal",
        ),
        pytest.param(
            build_stream(b"")[:-5], b"1\r\n \r\n", stream_whole, UpstreamAwayError, id="first event"
        ),
        pytest.param(
            build_stream(EVENTS), b"1\r\n \r\n", stream_whole, UpstreamBrokenError, id="event"
        ),
    ],
)
def test_a_server_that_goes_on_piece_by_piece_is_given_up(
    begin: bytes, piece: bytes, work: Work, error: type[Exception]
) -> None:
    """None of its pauses is as long as a server may be silent."""

    async def run() -> None:
        over = asyncio.Event()

        async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                await reader.readuntil(b"\r\n\r\n{}")
                writer.write(begin)
                while not writer.is_closing():
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.01)
            writer.close()
            over.set()

        try:
            async with serve(drip, 0.2, 0.2) as (upstream, target):
                await asyncio.wait_for(work(upstream, target), GUARD_SECONDS)
        finally:
            await over.wait()

    with pytest.raises(error, match="TimeoutError"):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "work", "is_slow"),
    [
        pytest.param(build_answer(200, WHOLE), ask_whole, False, id="whole"),
        pytest.param(build_stream(EVENTS + END), stream_whole, True, id="stream"),
    ],
)
def test_a_whole_answer_may_take_longer_to_begin_than_a_stream(
    answer: bytes, work: Work, is_slow: bool
) -> None:
    """A server sends nothing of it before all of it was generated."""

    async def run() -> None:
        over = asyncio.Event()

        async def generate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n{}")
            await asyncio.sleep(0.4)
            writer.write(answer)
            writer.close()
            over.set()

        try:
            async with serve(generate, read_seconds=0.1) as (upstream, target):
                await work(upstream, target)
        finally:
            await over.wait()

    with pytest.raises(UpstreamSlowError) if is_slow else nullcontext():
        asyncio.run(run())


def test_the_end_mark_needs_no_space() -> None:
    end = b"data:[DONE]\n\n"
    assert read([EVENTS, end]) == EVENTS.replace(b"mv_1.abcd", b"mv_1") + end


@pytest.mark.parametrize("status", [301, 401, 403, 404, 429, 500, 503])
def test_what_is_not_the_requests_fault_is_an_outage(status: int) -> None:
    with pytest.raises(UpstreamAwayError):
        ask(Server(build_answer(status, b"{}", "Location: http://elsewhere")), ask_whole)


def test_a_refusal_names_the_version_not_its_name_on_the_server() -> None:
    body = {"error": {"message": "mv_1.abcd takes 512\n tokens." + "x" * 9999}}
    with pytest.raises(UpstreamRefusalError, match=r"^mv_1 takes 512 tokens\.x{1,500}$"):
        ask(Server(build_answer(400, json.dumps(body).encode())), stream_whole)
    with pytest.raises(UpstreamRefusalError, match="no reason"):
        ask(Server(build_answer(400, b"<html>")), ask_whole)
    with pytest.raises(UpstreamRefusalError, match="no reason"):
        ask(Server(build_answer(400, b"[" * 10_000)), ask_whole)


def test_a_refusal_that_repeats_our_key_is_redacted() -> None:
    body = {"error": {"message": f"{'x ' * 230}Authorization: Bearer between-us-alone"}}
    with pytest.raises(UpstreamRefusalError, match=r"Authorization: (Bearer )?\*\*\*$"):
        ask(Server(build_answer(400, json.dumps(body).encode())), ask_whole)


def test_text_that_looks_like_the_field_is_left_alone() -> None:
    text = rb'{"text":"\"model\":\"mv_1.abcd\"","model":"mv_1.abcd"}'
    assert rename_model(text, TARGET) == rb'{"text":"\"model\":\"mv_1.abcd\"","model":"mv_1"}'


def test_a_server_gets_the_headers_it_needs_and_no_others() -> None:
    server = Server(build_answer(200, WHOLE, "Set-Cookie: a=b"))
    ask(server, ask_whole, times=2)
    for request in server.requests:
        names = {line.split(b":")[0].lower() for line in request.split(b"\r\n")[1:-2]}
        assert names == {
            *(b"host", b"accept", b"accept-encoding", b"content-type", b"content-length"),
            b"x-request-id",
        }


@pytest.mark.parametrize(
    ("answer", "work", "connections"),
    [
        pytest.param(build_stream(EVENTS + END) + LAST, stream_whole, 1, id="whole"),
        pytest.param(build_stream(EVENTS), leave_early, 3, id="left early"),
    ],
)
def test_a_connection_is_used_again_once_its_answer_is_whole(
    answer: bytes, work: Work, connections: int
) -> None:
    server = Server(answer)
    ask(server, work, times=3)
    assert server.connections == connections


def test_an_answer_that_nobody_asked_for_is_given_to_nobody() -> None:
    """It arrives on a connection that waits for its next request."""

    async def run() -> list[bytes]:
        taken, both_were_sent = asyncio.Event(), asyncio.Event()

        async def answer_twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n{}")
            number = b"1" if not taken.is_set() else b"2"
            writer.write(build_answer(200, WHOLE.replace(b"[]", b"[" + number + b"]")))
            await taken.wait()
            writer.write(build_answer(200, WHOLE.replace(b"[]", b"[99]")))
            await writer.drain()
            both_were_sent.set()
            await reader.read()
            writer.close()

        async with serve(answer_twice) as (upstream, target):
            answers = [await ask_whole(upstream, target)]
            taken.set()
            await both_were_sent.wait()
            for _ in range(5):
                await asyncio.sleep(0)  # until it has arrived
            answers.append(await ask_whole(upstream, target))
        await asyncio.sleep(0)
        return answers

    answers = asyncio.run(run())
    assert [json.loads(answer)["choices"] for answer in answers] == [[1], [2]]


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 2", build_answer(200, WHOLE)[:-3]])
def test_a_server_that_hangs_up_may_be_asked_again(answer: bytes) -> None:
    with pytest.raises(UpstreamAwayError):
        ask(Server(answer, hangs_up=True), ask_whole)


def test_a_server_that_is_not_there_may_be_asked_again() -> None:
    async def run() -> None:
        server = Server(b"")
        async with serve(server) as (_, target):
            pass
        upstream = Upstream(5, 5)
        try:
            await ask_whole(upstream, target)
        finally:
            await upstream.aclose()

    with pytest.raises(UpstreamAwayError, match="ClientConnectorError"):
        asyncio.run(run())
