"""With proxies in the environment, all requests to this machine bypass them, with their keys."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from excise.client import Client, ClientError
from excise.outgoing.endpoints import Destination, Endpoint
from excise.outgoing.posts import Poster
from service.commands.serve import ALIAS, Snippets
from service.gateway.routing import Target
from service.gateway.upstream import Upstream
from service.serving.pools import ServingPool
from service.serving.vllm import VllmServer

ROOT = Path(__file__).parents[3]
KEY = "exc_the-secret"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
PUBLIC = "93.184.215.14"
CHOICE = {"index": 0, "text": "hello", "finish_reason": "stop", "logprobs": None, "token_ids": [1]}
ANSWER = json.dumps(
    {"id": "x", "object": "list", "created": 1, "model": "tiny", "choices": [CHOICE]}
    | {"data": [], "has_more": False, "version": "0.18.0"}
).encode()


@dataclass
class Recorder:
    """A server that records every request; as a proxy, it sees whole requests."""

    port: int = 0
    requests: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.server.recorder.requests.append(f"{self.requestline}\n{self.headers}")  # type: ignore[attr-defined]
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    do_GET = do_POST = do_CONNECT = _answer

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def run_server(host: str = "127.0.0.1") -> Iterator[Recorder]:
    kind = type("Server", (ThreadingHTTPServer,), {"daemon_threads": True})
    if ":" in host:
        kind.address_family = socket.AF_INET6
    try:
        server = kind((host, 0), _Handler)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    recorder = server.recorder = Recorder(server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield recorder
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """A proxy named by every environment variable for proxies, without exceptions."""
    for recorder in run_server():
        for name in VARIABLES:
            for spelled in (name, name.lower()):
                monkeypatch.setenv(spelled, f"http://127.0.0.1:{recorder.port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield recorder


@pytest.fixture
def service() -> Iterator[Recorder]:
    yield from run_server()


@pytest.fixture
def service_on_ipv6() -> Iterator[Recorder]:
    yield from run_server("::1")


def list_jobs(url: str) -> None:
    with Client(url, KEY, patience_seconds=0) as client:
        assert client.list_jobs().data == []


def list_aliases(url: str) -> None:
    with Client(url, KEY, patience_seconds=0) as client:
        assert client.list_aliases().data == []


def ask_vllm(url: str) -> None:
    async def ask() -> None:
        async with VllmServer(url, KEY) as server:
            assert await server.version() == "0.18.0"

    asyncio.run(ask())


def ask_upstream(url: str) -> None:
    async def ask() -> None:
        upstream = Upstream(5, 5)
        pool = ServingPool(name="main", url=url, base_model="tiny", api_key=KEY)
        try:
            await upstream.ask(Target(pool, "tiny", "tiny"), "/v1/completions", b"{}")
        finally:
            await upstream.aclose()

    asyncio.run(ask())


def post(url: str) -> None:
    parts = httpx.URL(url)
    assert parts.port is not None
    destination = Destination(Endpoint("http", "scorer.example", parts.port, "/"), "127.0.0.1")
    with Poster(destination) as poster:
        assert poster.post(b"{}") == ANSWER


@pytest.mark.parametrize("ask", [list_jobs, list_aliases, ask_vllm, ask_upstream, post])
def test_no_client_uses_a_proxy_for_this_machine(
    ask: Callable[[str], None], proxy: Recorder, service: Recorder
) -> None:
    ask(f"http://127.0.0.1:{service.port}")
    assert len(service.requests) == 1
    assert proxy.requests == []


def test_the_loopback_of_ipv6_is_this_machine(proxy: Recorder, service_on_ipv6: Recorder) -> None:
    list_jobs(f"http://[::1]:{service_on_ipv6.port}")
    assert KEY in service_on_ipv6.requests[0]
    assert proxy.requests == []


def send_all_here(monkeypatch: pytest.MonkeyPatch, addresses: dict[str, str]) -> None:
    """Look up `addresses` as given, but connect to this machine whatever address was found."""
    look_up, connect = socket.getaddrinfo, socket.create_connection

    def find(host: Any, port: Any, *arguments: Any, **options: Any) -> list[Any]:
        return look_up(addresses.get(host, host), port, *arguments, **options)

    def connect_here(address: tuple[str, int], *arguments: Any, **options: Any) -> socket.socket:
        return connect(("127.0.0.1", address[1]), *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", find)
    monkeypatch.setattr(socket, "create_connection", connect_here)


@pytest.mark.parametrize("host", ["localhost", "10.1.2.3", "192.168.0.9", "excise.corp.example"])
def test_private_hosts_are_contacted_directly(
    host: str, proxy: Recorder, service: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_all_here(monkeypatch, {"excise.corp.example": "10.1.2.3"})
    list_jobs(f"http://{host}:{service.port}")
    assert KEY in service.requests[0]
    assert proxy.requests == []


@pytest.mark.parametrize("host", [PUBLIC, "excise.example.com"])
def test_public_hosts_are_still_contacted_through_the_proxy(
    host: str, proxy: Recorder, service: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_all_here(monkeypatch, {"excise.example.com": PUBLIC})
    list_jobs(f"http://{host}:{service.port}")
    assert proxy.requests[0].startswith(f"GET http://{host}:{service.port}/v1/jobs")
    assert service.requests == []


def test_an_unknown_host_is_an_error_without_a_request(proxy: Recorder) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ClientError, match="No answer"):
        list_jobs(f"http://127.0.0.1:{port}")
    assert proxy.requests == []


@pytest.mark.parametrize("variables", [VARIABLES, tuple(map(str.lower, VARIABLES))])
def test_the_command_keeps_the_key_from_the_proxy(
    variables: tuple[str, ...], proxy: Recorder, service: Recorder
) -> None:
    kept = {name: value for name, value in os.environ.items() if "PROXY" not in name.upper()}
    environment = {
        **kept,
        **dict.fromkeys(variables, f"http://127.0.0.1:{proxy.port}"),
        "EXCISE_API_KEY": KEY,
        "EXCISE_URL": f"http://localhost:{service.port}",
    }
    command = [sys.executable, "-m", "excise.cli.app", "jobs"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert KEY in service.requests[0]
    assert proxy.requests == []


def test_the_snippets_keep_the_key_from_the_proxy(proxy: Recorder, service: Recorder) -> None:
    environment = {**os.environ, "EXCISE_API_KEY": KEY}
    url = f"http://127.0.0.1:{service.port}"
    snippets = Snippets(url, "tiny", ALIAS, "Hi", environment)
    for command in (["bash", "-c", snippets.curl], [sys.executable, "-c", snippets.python]):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "hello" in done.stdout
    assert len(service.requests) == 3
    assert all(KEY in request for request in service.requests)
    assert proxy.requests == []
