"""Streams from a server, however its bytes are cut; names changed in the field alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import pairwise

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.gateway.routing import Target
from service.gateway.upstream import (
    Upstream,
    UpstreamAwayError,
    UpstreamBrokenError,
    UpstreamRefusalError,
    rename_model,
)
from service.serving.pools import ServingPool

POOL = ServingPool(name="main", url="http://vllm:8000", base_model="tiny")
TARGET = Target(POOL, "mv_1.abcd", "mv_1")
EVENTS = b'data: {"model":"mv_1.abcd","text":"a"}\n\ndata: {"model":"mv_1.abcd","text":"b"}\n\n'
END = b"data: [DONE]\n\n"


class Chunks(httpx.AsyncByteStream):
    """A body that arrives in pieces, and may break off."""

    def __init__(self, chunks: list[bytes], breaks: bool = False) -> None:
        self._chunks = chunks
        self._breaks = breaks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        if self._breaks:
            raise httpx.ReadError("gone")


def read(response: httpx.Response) -> bytes:
    """Everything the gateway would send on."""

    async def run() -> bytes:
        transport = httpx.MockTransport(lambda _: response)
        upstream = Upstream(5, transport)
        stream = await upstream.open(TARGET, "/v1/completions", b"{}")
        try:
            return b"".join([events async for events in stream.events()])
        finally:
            await stream.aclose()
            await upstream.aclose()

    return asyncio.run(run())


@settings(deadline=None)
@given(st.lists(st.integers(1, len(EVENTS + END) - 1), max_size=8, unique=True))
def test_events_survive_any_cut(cuts: list[int]) -> None:
    content = EVENTS + END
    edges = [0, *sorted(cuts), len(content)]
    pieces = [content[a:b] for a, b in pairwise(edges)]
    expected = content.replace(b"mv_1.abcd", b"mv_1")
    assert read(httpx.Response(200, stream=Chunks(pieces))) == expected


def test_a_text_that_looks_like_the_end_mark_is_not_the_end() -> None:
    text = b'data: {"model":"mv_1.abcd","text":"data: [DONE]"}\n\n'
    expected = (text + EVENTS + END).replace(b"mv_1.abcd", b"mv_1")
    assert read(httpx.Response(200, stream=Chunks([text, EVENTS, END]))) == expected


@pytest.mark.parametrize("breaks", [True, False])
def test_a_stream_without_its_end_mark_is_broken(breaks: bool) -> None:
    with pytest.raises(UpstreamBrokenError):
        read(httpx.Response(200, stream=Chunks([EVENTS], breaks)))


@pytest.mark.parametrize(
    "chunks", [[], [b""], [b"data: {"], [b'data: {"error": {"message": "EngineDeadError"}}\n\n']]
)
def test_a_stream_that_brings_nothing_may_be_asked_again(chunks: list[bytes]) -> None:
    with pytest.raises(UpstreamAwayError):
        read(httpx.Response(200, stream=Chunks(chunks, breaks=True)))


@pytest.mark.parametrize("status", [301, 401, 403, 404, 429, 500, 503])
def test_what_is_not_the_requests_fault_is_an_outage(status: int) -> None:
    with pytest.raises(UpstreamAwayError):
        read(httpx.Response(status, json={}, headers={"Location": "http://elsewhere"}))


def test_a_refusal_names_the_version_not_its_name_on_the_server() -> None:
    body = {"error": {"message": "mv_1.abcd takes 512\n tokens." + "x" * 9999}}
    with pytest.raises(UpstreamRefusalError, match=r"^mv_1 takes 512 tokens\.x{1,500}$"):
        read(httpx.Response(400, stream=Chunks([json.dumps(body).encode()])))
    with pytest.raises(UpstreamRefusalError, match="no reason"):
        read(httpx.Response(400, stream=Chunks([b"<html>"])))


def test_text_that_looks_like_the_field_is_left_alone() -> None:
    text = rb'{"text":"\"model\":\"mv_1.abcd\"","model":"mv_1.abcd"}'
    assert rename_model(text, TARGET) == rb'{"text":"\"model\":\"mv_1.abcd\"","model":"mv_1"}'


def test_a_connection_reset_as_it_stands_may_be_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The socket is gone before httpcore has asked it anything: seen with a server killed."""

    async def fail(*_: object) -> httpx.Response:
        raise AttributeError("'NoneType' object has no attribute 'getpeername'")

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", fail)

    async def run() -> None:
        upstream = Upstream(5)
        try:
            await upstream.open(TARGET, "/v1/completions", b"{}")
        finally:
            await upstream.aclose()

    with pytest.raises(UpstreamAwayError, match="ConnectError"):
        asyncio.run(run())
