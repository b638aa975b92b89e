"""What only a real server shows: early rejections reach the client, streams end at shutdown."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest
import uvicorn
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from service.app import create_app
from service.database import Database, fetch_revisions, upgrade_to_head
from service.models import Base
from service.settings import Settings
from tests.integration.service.conftest import submit

TEXT = {"Content-Type": "text/plain"}


@contextmanager
def serve(settings: Settings) -> Iterator[tuple[uvicorn.Server, str]]:
    """Run the service on a free port of this machine."""
    config = uvicorn.Config(create_app(settings), port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield server, f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture
def http(settings: Settings, make_key: Callable[..., str]) -> Iterator[httpx.Client]:
    with serve(settings) as (_, url):
        headers = {"Authorization": f"Bearer {make_key()}"}
        with httpx.Client(base_url=url, headers=headers, timeout=20) as client:
            yield client


def test_a_large_upload_is_rejected_before_it_is_read(http: httpx.Client) -> None:
    """Declared and undeclared sizes; the connection remains usable."""
    declared = http.post("/v1/prompt-sets?name=a", content=b"a" * 10_000_000, headers=TEXT)
    assert declared.status_code == 413

    pieces = iter([b"a" * 1_000_000] * 20)
    chunked = http.post("/v1/prompt-sets?name=a", content=pieces, headers=TEXT)
    assert chunked.status_code == 413
    assert "8388608" in chunked.json()["detail"]
    assert http.get("/v1/jobs").status_code == 200


def test_a_client_that_leaves_in_the_middle_does_no_harm(http: httpx.Client) -> None:
    def leave() -> Iterator[bytes]:
        yield b"a"
        raise KeyError

    with pytest.raises(KeyError):
        http.post("/v1/prompt-sets?name=a", content=leave(), headers=TEXT)
    assert http.get("/v1/prompt-sets").json()["data"] == []


def test_the_schema_matches_the_models(database: Database, database_url: str) -> None:
    upgrade_to_head(database_url)  # the second time, this changes nothing
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        current, newest = fetch_revisions(connection)
        assert current == newest


def test_an_open_stream_does_not_hold_up_shutdown(
    settings: Settings, make_key: Callable[..., str]
) -> None:
    """SIGTERM, as a supervisor sends it, while a client follows a running job."""
    headers = {"Authorization": f"Bearer {make_key()}"}
    with serve_in_process(settings) as (server, url), httpx.Client(base_url=url) as client:
        client.headers.update(headers)
        job_id = submit(client)["id"]  # type: ignore[arg-type]
        with client.stream("GET", f"/v1/jobs/{job_id}/events?stream=true") as stream:
            assert next(stream.iter_lines()).startswith("id: ")
            server.send_signal(signal.SIGTERM)
            server.wait(10)


@contextmanager
def serve_in_process(settings: Settings) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run the service as a process of its own, configured through the environment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "EXCISE_DATABASE_URL": settings.database_url.get_secret_value(),
        "EXCISE_BROKER_URL": settings.broker_url.get_secret_value(),
        "EXCISE_ARTIFACTS": settings.artifacts,
        "EXCISE_MODEL_ROOTS": os.pathsep.join(map(str, settings.model_roots)),
        "EXCISE_RELAY_ENABLED": "false",
        "EXCISE_QUOTAS": settings.quotas.model_dump_json(),
        "EXCISE_MAX_OPEN_JOBS_PER_KEY": str(settings.max_open_jobs_per_key),
    }
    command = [sys.executable, "-m", "uvicorn", "--factory", "service.app:create_app"]
    server = subprocess.Popen([*command, "--port", str(port)], env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_until_alive(server, url)
        yield server, url
    finally:
        server.kill()
        server.wait(10)


def wait_until_alive(server: subprocess.Popen[bytes], url: str) -> None:
    """Wait until the process answers."""
    deadline = time.monotonic() + 120  # on a busy machine
    while server.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/healthz").status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(f"the server did not start: {server.poll()}")
