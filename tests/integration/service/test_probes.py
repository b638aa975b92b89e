"""Probes of a container engine: whether a process is ready, and whether it may be stopped."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from sqlalchemy import func, select, update

from service import probes
from service.database import Database
from service.jobs.execution import heartbeat_worker
from service.keys.operations import create_tenant_key
from service.models import ApiKey, Job, Stage, Worker

HOST = socket.gethostname()


@pytest.fixture(autouse=True)
def environment(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXCISE_DATABASE_URL", database_url)


@pytest.fixture
def busy_worker(database: Database) -> str:
    """A worker of this host in the first stage of a job."""
    with database.transaction() as session:
        if session.get(Job, "job_1") is None:
            create_tenant_key(session, "first", "k", ("submit",))
            key = session.scalars(select(ApiKey)).one()
            owner = {"tenant_id": key.tenant_id, "api_key_id": key.id}
            job = {"kind": "correction", "model": "tiny", "spec": {}, "user_metadata": {}}
            session.add(Job(id="job_1", **owner, **job))
            session.flush()
            for position, name in enumerate(("prepare", "attribute")):
                session.add(Stage(job_id="job_1", name=name, position=position))
        heartbeat_worker(session, "worker_1", HOST, 1, "job_1")
    set_stage(database, "prepare")
    return "worker_1"


def set_stage(database: Database, name: str) -> None:
    with database.transaction() as session:
        session.execute(update(Stage).values(status="succeeded"))
        session.execute(update(Stage).where(Stage.name == name).values(status="running"))


def end_job(database: Database) -> None:
    with database.transaction() as session:
        heartbeat_worker(session, "worker_1", HOST, 1, None)


READY = {"status": "ok", "checks": {"workers": {"ok": False, "detail": "none alive"}}}
UNREADY = {
    "status": "unavailable",
    "checks": {
        "database": {"ok": True, "detail": "answers"},
        "broker": {"ok": False, "detail": "does not answer (ConnectionError)"},
        "rate_limits": {"ok": False, "detail": "the broker is away"},
    },
}


@contextmanager
def answering(status: int, body: bytes) -> Iterator[int]:
    """Provide the port of an API whose /readyz answers this."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, json.dumps(READY).encode(), ""),
        (
            503,
            json.dumps(UNREADY).encode(),
            "broker: does not answer (ConnectionError)\nrate_limits: the broker is away\n",
        ),
        (503, b"<html>", "http://127.0.0.1:PORT/readyz answered with 503\n"),
        (500, b"[]", "http://127.0.0.1:PORT/readyz answered with 500\n"),
    ],
)
def test_the_api_is_ready_when_it_says_so_or_what_is_wrong_is_printed(
    status: int, body: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with answering(status, body) as port:
        assert probes.main(["api", str(port)]) == int(status != 200)
    assert capsys.readouterr().out == said.replace("PORT", str(port))


def test_an_api_that_does_not_answer_is_not_alive(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200, b"") as port:
        pass
    assert probes.main(["live", str(port)]) == 1
    assert f"127.0.0.1:{port}/healthz does not answer: " in capsys.readouterr().out


def test_a_worker_is_ready_while_it_sends_heartbeats(database: Database, busy_worker: str) -> None:
    assert probes.main(["worker"]) == 0
    with database.transaction() as session:
        long_ago = func.clock_timestamp() - timedelta(minutes=2)
        session.execute(update(Worker).values(heartbeat_at=long_ago))
    assert probes.main(["worker"]) == 1


@pytest.mark.parametrize("go_on", [end_job, lambda database: set_stage(database, "attribute")])
def test_a_worker_is_drained_once_its_stage_is_over(
    database: Database, database_url: str, busy_worker: str, go_on: Callable[[Database], None]
) -> None:
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            go_on(database)

    assert probes.drain(database_url, HOST, 3600, sleep=sleep)
    assert len(looks) == 3


def test_a_drain_has_a_time_limit(database_url: str, busy_worker: str) -> None:
    assert not probes.drain(database_url, HOST, 0, sleep=lambda _: None)
    assert probes.drain(database_url, "another-host", 0)


def test_no_database_is_no_reason_to_wait(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EXCISE_DATABASE_URL", "postgresql+psycopg://u:secret@127.0.0.1:1/x")
    assert probes.main(["worker"]) == 1
    assert probes.main(["drain", "3600"]) == 1
    assert "secret" not in "".join(capfd.readouterr())


def test_an_unknown_probe_prints_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert probes.main(["health"]) == 2
    assert "usage" in capsys.readouterr().out
