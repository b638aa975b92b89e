"""The service behind PgBouncer, which assigns its connections per transaction.

Skipped without PgBouncer: `apt-get install pgbouncer`, or set EXCISE_PGBOUNCER to its path.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr
from sqlalchemy import text

from service.app import create_app
from service.database import Database, parse_database_url, upgrade_to_head
from service.embedded.valkey import find_free_port
from service.serving.locks import try_lock
from service.settings import Settings
from tests.integration.service.conftest import build_spec

PROGRAM = os.environ.get("EXCISE_PGBOUNCER") or shutil.which("pgbouncer") or ""
pytestmark = pytest.mark.skipif(not PROGRAM, reason="needs PgBouncer (EXCISE_PGBOUNCER)")

START_SECONDS = 30
SERVERS = 3  # connections to PostgreSQL; there are many more clients
CONFIGURATION = """
[databases]
{name} = {target}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {servers}
max_client_conn = 200
ignore_startup_parameters = extra_float_digits
logfile = {folder}/log
"""


@pytest.fixture
def pooled_url(database_url: str, tmp_path: Path) -> Iterator[str]:
    """The database's URL through PgBouncer."""
    url = parse_database_url(database_url)
    host = url.query.get("host") or url.host
    target = f"host={host} port={url.port or 5432} dbname={url.database} user={url.username}"
    if url.password:
        target += f" password={url.password}"
    port = find_free_port()
    file = tmp_path / "pgbouncer.ini"
    file.write_text(
        CONFIGURATION.format(
            name=url.database, target=target, port=port, servers=SERVERS, folder=tmp_path
        )
    )
    arguments = [PROGRAM, str(file)]
    if os.geteuid() == 0:  # as which PgBouncer refuses to run
        tmp_path.chmod(0o777)
        for folder in tmp_path.parents:
            if folder.stat().st_uid == os.geteuid() and folder.parts[1:2] == ("tmp",):
                folder.chmod(folder.stat().st_mode | 0o011)
        is_socket = host is not None and str(host).startswith("/")  # only its owner may use it
        user = pwd.getpwuid(Path(str(host)).stat().st_uid).pw_name if is_socket else "nobody"
        arguments[1:1] = ["-u", user]
    pooler = subprocess.Popen(arguments)
    pooled = f"postgresql://{url.username}@127.0.0.1:{port}/{url.database}"
    try:
        wait_until_open(pooled, pooler)
        yield pooled
    finally:
        pooler.terminate()
        pooler.wait(10)


def wait_until_open(url: str, pooler: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert pooler.poll() is None, "PgBouncer ended"
        try:
            with closing(psycopg.connect(url, connect_timeout=2)):
                return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise AssertionError("PgBouncer does not answer")


def test_jobs_are_submitted_side_by_side(
    settings: Settings, pooled_url: str, make_key: Callable[..., str]
) -> None:
    """Four of six once failed: one transaction had prepared a statement that others used."""
    pooled = settings.model_copy(update={"database_url": SecretStr(pooled_url)})
    upgrade_to_head(pooled_url)
    with TestClient(create_app(pooled), raise_server_exceptions=False) as client:
        client.headers["Authorization"] = f"Bearer {make_key()}"
        spec = build_spec(client)

        def ask(number: int) -> list[int]:
            key = {"Idempotency-Key": f"pgbouncer-{number}"}
            return [
                client.post("/v1/jobs", json=spec, headers=key).status_code,
                *(client.get("/v1/jobs").status_code for _ in range(8)),
            ]

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ask, range(16)))
        assert answers == [[201, *[200] * 8]] * 16
        assert client.get("/readyz").json()["checks"]["migrations"]["ok"]


def test_a_lock_has_one_holder(pooled_url: str) -> None:
    first, second = Database(pooled_url), Database(pooled_url)
    try:
        with try_lock(first, "reconciler") as is_held:
            assert is_held
            for _ in range(2 * SERVERS):  # on whichever connection is assigned
                with first.transaction() as session:
                    session.execute(text("SELECT 1"))
                with try_lock(second, "reconciler") as is_held_twice:
                    assert not is_held_twice
                with try_lock(second, "another") as is_another_held:
                    assert is_another_held
        with try_lock(second, "reconciler") as is_held_after:
            assert is_held_after
    finally:
        first.dispose()
        second.dispose()
