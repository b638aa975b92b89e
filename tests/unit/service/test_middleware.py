"""Bodies: read after the key is known, bounded in size, time and nesting."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.app import create_app
from service.body_budget import BodyBudget
from service.errors import InvalidRequestError, TooManyBodiesError
from service.middleware import API_PREFIX, BodyLimits, check_json_depth
from service.settings import Settings

TEXT = st.text(alphabet='ab"\\\\/[]{}:,\n\u00e9\u2028\U0001f600', max_size=8)
DOCUMENTS = st.recursive(
    st.none() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)
UNKEYED = {"/", "/healthz", "/readyz", "/metrics", "/docs", "/docs/{name}"}


def build_settings(**changes: Any) -> Settings:
    """Settings of a service that is never connected to anything."""
    return Settings(database_url=SecretStr("postgresql://host/db"), artifacts="/a", **changes)


def measure_depth(document: object) -> int:
    """How deep a parsed document is nested."""
    if isinstance(document, dict):
        return 1 + max(map(measure_depth, document.values()), default=0)
    if isinstance(document, list):
        return 1 + max(map(measure_depth, document), default=0)
    return 0


@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 1]))
def test_the_scan_counts_what_the_parser_sees(
    document: object, is_ascii: bool, indent: int | None
) -> None:
    body = json.dumps(document, ensure_ascii=is_ascii, indent=indent).encode()
    depth = measure_depth(document)
    check_json_depth(body, depth)
    if depth:
        with pytest.raises(InvalidRequestError, match=f"more than {depth - 1} levels"):
            check_json_depth(body, depth - 1)


@given(st.text(alphabet='"\\\\[]{}a', max_size=30).map(str.encode))
def test_any_bytes_that_parse_are_measured_and_any_others_do_no_harm(body: bytes) -> None:
    try:
        depth = measure_depth(json.loads(body))
    except ValueError:
        depth = len(body)
    check_json_depth(body, depth)


@pytest.mark.parametrize(
    "body",
    [
        b'"' + b'\\"' * 2**19,  # quadratic for the pattern there was
        b'"' * 2**20,
        b"\\" * 2**20,
        b"[]" * 2**19,
        b'"a' * 2**19,
    ],
)
def test_a_mebibyte_of_anything_is_scanned(body: bytes) -> None:
    """Within pytest's time limit: the string pattern took hours for the first."""
    check_json_depth(body, 32)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_only_utf_8_is_json_here(encoding: str) -> None:
    """The parser takes the others, in which the brackets could not be counted."""
    with pytest.raises(InvalidRequestError, match="not in UTF-8"):
        check_json_depth(("[" * 40 + "]" * 40).encode(encoding), 32)
    check_json_depth("[]".encode("utf-8-sig"), 32)


class Caller:
    """An ASGI client: what it sends, how often it was asked for more, and what it got."""

    def __init__(self, *chunks: bytes, is_endless: bool = False) -> None:
        self.chunks = list(chunks)
        self.is_endless = is_endless
        self.reads = 0
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    async def receive(self) -> Message:
        self.reads += 1
        if not self.chunks and self.is_endless:
            await asyncio.Event().wait()
        chunk = self.chunks.pop(0) if self.chunks else b""
        more = bool(self.chunks) or self.is_endless
        return {"type": "http.request", "body": chunk, "more_body": more}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        self.body += message.get("body", b"")

    def ask(self, app: ASGIApp, method: str, path: str, *headers: tuple[bytes, bytes]) -> None:
        asyncio.run(self.ask_in_loop(app, method, path, *headers))

    async def ask_in_loop(
        self, app: ASGIApp, method: str, path: str, *headers: tuple[bytes, bytes]
    ) -> None:
        scope: Scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json"), *headers],
            "server": ("host", 80),
            "client": ("host", 1),
        }
        await app(scope, self.receive, self.send)


@pytest.mark.parametrize("header", [None, b"Basic eDp5", b"Bearer", b"Bearer exc_x"])
def test_no_route_reads_a_body_without_a_key(header: bytes | None) -> None:
    """Every route of the API, and any other path under its prefix."""
    app = create_app(build_settings())
    paths = {("post", "/v1/none")}
    for path, methods in app.openapi()["paths"].items():
        paths |= {(method, path) for method in methods if path not in UNKEYED}
    headers = () if header is None else ((b"authorization", header),)
    for method, path in sorted(paths):
        assert path.startswith(API_PREFIX), f"{path} has neither a key nor a place in UNKEYED"
        caller = Caller(b"{}")
        caller.ask(app, method.upper(), path.replace("{", "").replace("}", ""), *headers)
        assert (caller.status, caller.reads) == (401, 0), path
        assert b"www-authenticate" in caller.headers


@pytest.mark.parametrize(("method", "path"), [("GET", "/healthz"), ("POST", "/x"), ("POST", "/")])
def test_what_needs_no_key_reads_no_body(method: str, path: str) -> None:
    caller = Caller(b"[" * 1000, is_endless=True)
    caller.ask(create_app(build_settings()), method, path)
    assert caller.status in {200, 404, 405}
    assert caller.reads == 0


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that sends back what it got."""
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def test_bodies_are_limited_in_size_time_and_depth() -> None:
    app = BodyLimits(answer, build_settings(max_body_bytes=1024, body_seconds=0.05))
    good = Caller(b"[1,", b"2]")
    good.ask(app, "POST", "/v1/jobs")
    assert (good.status, good.body) == (200, b"[1,2]")
    for caller, status, code in (
        (Caller(b"a" * 1000, b"a" * 1000), 413, "too_large"),
        (Caller(b"[", is_endless=True), 408, "too_slow"),
        (Caller(b"[" * 33), 422, "invalid_request"),
    ):
        caller.ask(app, "POST", "/v1/jobs")
        assert caller.status == status
        assert json.loads(caller.body)["error"]["code"] == code


def test_the_rest_of_a_slow_body_is_not_waited_for() -> None:
    caller = Caller(b"[", is_endless=True)
    caller.ask(BodyLimits(answer, build_settings(body_seconds=0.05)), "POST", "/v1/jobs")
    assert caller.headers[b"connection"] == b"close"


def test_bodies_on_their_way_are_limited_by_key_and_in_all() -> None:
    budget = BodyBudget(in_all=10, of_key=6)
    budget.take("a", 6)
    with pytest.raises(TooManyBodiesError, match=r"This API key .* 6 bytes"):
        budget.take("a", 1)
    with pytest.raises(TooManyBodiesError, match=r"This process .* 10 bytes"):
        budget.take("b", 5)
    budget.take("b", 4)
    budget.give("a", 6)
    budget.take("b", 2)
    budget.take("a", 4)


def test_a_body_counts_until_it_was_processed() -> None:
    budget = BodyBudget(in_all=10, of_key=6)
    with budget.hold("a") as take:
        take(2)
        take(4)
        with pytest.raises(TooManyBodiesError), budget.hold("a") as further:
            further(1)
    budget.take("a", 6)


def test_a_body_too_many_is_refused_and_the_others_are_not_forgotten() -> None:
    """Twenty half-sent bodies of one key held 8 MiB each, for good."""
    mebibyte = b"a" * 2**20
    settings = build_settings(
        max_receiving_bytes_per_key=2**20, max_body_bytes=2**21, body_seconds=0.05
    )
    app = BodyLimits(answer, settings)

    async def run() -> list[int]:
        callers = [Caller(mebibyte, is_endless=True), Caller(b"[", b"]"), Caller(b"[", b"]")]
        first = asyncio.ensure_future(callers[0].ask_in_loop(app, "POST", "/v1/jobs"))
        await asyncio.sleep(0.01)
        await callers[1].ask_in_loop(app, "POST", "/v1/jobs")
        await first
        await callers[2].ask_in_loop(app, "POST", "/v1/jobs")
        assert callers[1].headers[b"connection"] == b"close"
        assert json.loads(callers[1].body)["error"]["code"] == "too_many_bodies"
        return [caller.status for caller in callers]

    assert asyncio.run(run()) == [408, 429, 200]
