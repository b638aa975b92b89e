"""The output of real processes, searched for secrets: API, worker, a job's child, commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from redis import Redis
from sqlalchemy import text
from sqlalchemy.orm import Session

from service.artifacts import LocalArtifactStore
from service.database import Database
from service.embedded.valkey import find_free_port
from service.keys.operations import create_tenant_key
from service.models import Job, JobArtifact
from tests.integration.workers.conftest import make_job, settings  # noqa: F401 - fixtures
from workers.settings import WorkerSettings

Process = subprocess.Popen[bytes]
ROOT = Path(__file__).resolve().parents[3]
START_SECONDS = 90.0
PASSWORD = "wrong/pass word@Zq7rT9"
SCORER_SECRET = "hmac-Secret-4711x"
BEARER = "opaque-bearer-T0kenValue"
QUERY = "query-s3cret-8842"
POSTGRES = "postgresql://excise"
BROKER_PASSWORD = "brokerPass77"
SECRETS = (
    *(PASSWORD, quote(PASSWORD, safe=""), "pass word@Zq7rT9", "Zq7rT9", "pass%20word"),
    *(SCORER_SECRET, BEARER, QUERY, BROKER_PASSWORD),
)


def build_environment(**changes: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EXCISE_")}
    own = {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "EXCISE_DATABASE_URL": f"{POSTGRES}:{quote(PASSWORD, safe='')}@127.0.0.1:1/excise",
        "EXCISE_BROKER_URL": f"redis://:{BROKER_PASSWORD}@127.0.0.1:1/0",
        "EXCISE_SCORER_HOSTS": '[{"host": "scorer", "secret_variable": "SCORER_VALUE"}]',
        "SCORER_VALUE": SCORER_SECRET,
        "EXCISE_DEVICE": "cpu",
    }
    return {**kept, **own, **changes}


@contextmanager
def run(
    log: Path, environment: dict[str, str], *arguments: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module as a program that writes to `log`; end it with the context."""
    with log.open("wb") as output:
        command = [sys.executable, "-m", *arguments]
        process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
        process.send_signal(signal.SIGTERM)
        process.wait(START_SECONDS)
    finally:
        process.kill()
        process.wait()


def wait_until(condition: Callable[[], object], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def check_for_secrets(written: str) -> None:
    found = [secret for secret in SECRETS if secret in written]
    assert not found, (found, written)


def read_lines(log: Path) -> list[dict[str, str]]:
    """Return the lines of a log, after checking that each is JSON without secrets."""
    written = log.read_text()
    check_for_secrets(written)
    return [json.loads(line) for line in written.splitlines()]


@contextmanager
def serve(log: Path, environment: dict[str, str], *options: str) -> Iterator[httpx.Client]:
    """Run the API as a process, with uvicorn's own logging at its defaults."""
    url = f"http://127.0.0.1:{find_free_port()}"
    arguments = ("uvicorn", "--factory", "service.app:create_app", "--port", url.split(":")[-1])
    with (
        run(log, environment, *arguments, *options),
        httpx.Client(base_url=url, trust_env=False, timeout=30) as client,
    ):

        def answers() -> bool:
            with suppress(httpx.TransportError):
                return client.get("/healthz").is_success
            return False

        wait_until(answers, log)
        yield client


def test_an_api_without_a_database_writes_no_secret(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    environment = build_environment(EXCISE_ARTIFACTS=str(tmp_path / "artifacts"))
    with serve(log, environment) as client:
        for _ in range(3):
            assert client.get("/readyz").status_code == 503
        headers = {"Authorization": f"Bearer {BEARER}", "X-Request-ID": "request-17"}
        client.get(f"/v1/jobs?api_key={QUERY}&token={quote(QUERY + '/')}", headers=headers)
        key = f"exc_{'k' * 43}"
        answer = client.get("/v1/jobs", headers={**headers, "Authorization": f"Bearer {key}"})
        assert answer.status_code == 503
        client.get(f"/v1/jobs/{key}", headers=headers)
    lines = read_lines(log)
    assert "kkkkkkkk" not in log.read_text()
    assert {"uvicorn.error", "uvicorn.access", "service.health", "service.relay"} <= {
        line["logger"] for line in lines
    }
    [failed] = [line for line in lines if "readiness check database" in line["message"]]
    assert "127.0.0.1" in failed["exception"]
    outage = next(line for line in lines if line["logger"] == "service.problems")
    assert outage["request_id"] == "request-17"
    assert any("api_key=***" in line["message"] for line in lines)


def test_the_operator_chooses_the_level(tmp_path: Path) -> None:
    log = tmp_path / "api.log"
    environment = build_environment(
        EXCISE_ARTIFACTS=str(tmp_path / "artifacts"), EXCISE_LOG_LEVEL="ERROR"
    )
    with serve(log, environment, "--no-access-log", "--log-level", "error") as client:
        client.get("/readyz")
    assert {line["level"] for line in read_lines(log)} == {"error"}


def test_a_corrupt_artifact_is_logged_with_its_request(
    tmp_path: Path,
    database_url: str,
    broker_url: str,
    database: Database,
    settings: WorkerSettings,  # noqa: F811
    make_job: Callable[[], str],  # noqa: F811
) -> None:
    sha256 = damage_artifact(database, settings, job_id := make_job())
    log = tmp_path / "api.log"
    environment = build_environment(
        EXCISE_DATABASE_URL=database_url,
        EXCISE_BROKER_URL=broker_url,
        EXCISE_ARTIFACTS=settings.artifacts,
        EXCISE_RELAY_ENABLED="false",
    )
    with database.transaction() as session:
        key = create_key_of(session, job_id)
    headers = {"Authorization": f"Bearer {key}", "X-Request-ID": "request-18"}
    with serve(log, environment) as client:
        answer = client.get(f"/v1/jobs/{job_id}/artifacts/notes.txt", headers=headers)
        assert answer.status_code == 500
        assert client.get("/readyz").json()["checks"]["migrations"]["ok"]
    lines = read_lines(log)
    assert not any(line["logger"].startswith("alembic") for line in lines)
    line = next(line for line in lines if line["level"] == "error")
    assert line["request_id"] == "request-18"
    assert sha256 in line["exception"]


def damage_artifact(database: Database, settings: WorkerSettings, job_id: str) -> str:  # noqa: F811
    """Replace the stored bytes of one of the job's files; return the file's hash."""
    sha256 = LocalArtifactStore(Path(settings.artifacts)).put_bytes(b"as it was")
    (Path(settings.artifacts) / sha256[:2] / sha256).write_bytes(b"as it is")
    with database.transaction() as session:
        session.add(
            JobArtifact(
                job_id=job_id, name="notes.txt", sha256=sha256, bytes=9, media_type="text/plain"
            )
        )
    return sha256


def create_key_of(session: Session, job_id: str) -> str:
    """Return a new key of the job's tenant."""
    name = session.execute(
        text("SELECT t.name FROM tenants t JOIN jobs j ON j.tenant_id = t.id WHERE j.id = :id"),
        {"id": job_id},
    ).scalar_one()
    return create_tenant_key(session, name, "test")


@pytest.mark.parametrize(
    "url",
    [
        f"{POSTGRES}:{PASSWORD}@127.0.0.1:1/excise",
        f"{POSTGRES}:wrong@{PASSWORD}:Zq7rT9@127.0.0.1:1/excise",
        f"{POSTGRES}:{PASSWORD.replace('@', ':')}",
    ],
)
@pytest.mark.parametrize(
    "arguments",
    [
        ("uvicorn", "--factory", "service.app:create_app"),
        ("celery", "-A", "workers.app", "worker", "--pool", "solo"),
        ("excise.cli.app", "migrate"),
        ("excise.cli.app", "keys", "list"),
    ],
    ids=lambda arguments: arguments[-1].rpartition(":")[2],
)
def test_a_badly_encoded_url_is_rejected_and_not_logged(
    tmp_path: Path, url: str, arguments: tuple[str, ...]
) -> None:
    environment = build_environment(
        EXCISE_DATABASE_URL=url, EXCISE_ARTIFACTS=str(tmp_path), EXCISE_DEBUG="1"
    )
    ended = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )
    assert ended.returncode != 0
    assert "EXCISE_DATABASE_URL is not the URL of a database" in ended.stdout + ended.stderr
    check_for_secrets(ended.stdout + ended.stderr)


@pytest.mark.parametrize("password", [b"Zq7rT9\xff/x", b"Zq7rT9/x"])
def test_an_invalid_broker_url_is_rejected_and_not_logged(tmp_path: Path, password: bytes) -> None:
    environment = build_environment(
        EXCISE_BROKER_URL=os.fsdecode(b"redis://:" + password + b"@127.0.0.1:1/0"),
        EXCISE_ARTIFACTS=str(tmp_path),
    )
    command = [sys.executable, "-m", "celery", "-A", "workers.app", "worker", "--pool", "solo"]
    ended = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, timeout=START_SECONDS, check=False
    )
    assert ended.returncode != 0
    written = (ended.stdout + ended.stderr).decode(errors="replace")
    assert "broker_url" in written
    check_for_secrets(written)


def test_a_worker_and_its_child_write_no_secret(
    tmp_path: Path,
    database_url: str,
    broker_url: str,
    database: Database,
    settings: WorkerSettings,  # noqa: F811
    make_job: Callable[[], str],  # noqa: F811
) -> None:
    """A job fails with secrets in its exception; the worker gets it through a real broker."""
    with Redis.from_url(broker_url) as connection:
        connection.flushall()
    log = tmp_path / "worker.log"
    environment = build_environment(
        EXCISE_DATABASE_URL=f"{database_url}{'&' if '?' in database_url else '?'}password={QUERY}",
        EXCISE_BROKER_URL=broker_url,
        EXCISE_ARTIFACTS=settings.artifacts,
        EXCISE_MODEL_ROOTS=str(settings.model_roots[0]),
        EXCISE_IS_WORKER="yes",
    )
    job_id = make_job()
    program = "tests.integration.logs.leaking_worker"
    options = ("--pool", "solo", "--without-mingle", "--without-gossip", "--loglevel", "INFO")
    with run(log, environment, "celery", "--quiet", "-A", program, "worker", *options):
        send(database, broker_url, settings)

        def has_ended() -> bool:
            with database.transaction() as session:
                return session.get_one(Job, job_id).status == "failed"

        wait_until(has_ended, log)
    printed, lines = split(log)
    assert "printed by a library: ***" in printed
    [ready] = [line for line in lines if line["message"].endswith("is ready to take jobs")]
    assert ready["level"] == "info"
    failed = next(line for line in lines if line["message"] == f"job {job_id} failed")
    assert failed["job_id"] == job_id
    assert "ValueError" in failed["exception"]
    assert {"celery.worker.strategy", "workers.running.supervision"} <= {
        line["logger"] for line in lines
    }


def send(database: Database, broker_url: str, settings: WorkerSettings) -> None:  # noqa: F811
    """Send what waits in the outbox, as a relay would."""
    from service.broker import Broker
    from service.relay import Relay

    broker = Broker(broker_url)
    Relay(database, broker, settings).send_once()
    broker.close()


def split(log: Path) -> tuple[str, list[dict[str, str]]]:
    """Return the printed text and the logged lines, after checking both for secrets."""
    written = log.read_text()
    check_for_secrets(written)
    lines = written.splitlines()
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    return "\n".join(line for line in lines if not line.startswith("{")), logged


def test_a_stack_that_fails_to_start_prints_text(tmp_path: Path) -> None:
    """What a user sees at the terminal: the reason, without JSON or secrets."""
    environment = build_environment(EXCISE_HOME=str(tmp_path / "home"))
    command = [sys.executable, "-m", "excise.cli.app", "up", "--port", str(find_free_port())]
    ended = subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=START_SECONDS
    )
    assert ended.returncode == 1
    assert '{"time"' not in ended.stdout + ended.stderr
    assert "error: " in ended.stderr
    check_for_secrets(ended.stdout + ended.stderr)
