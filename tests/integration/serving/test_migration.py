"""The schema of serving is downgraded and upgraded again, with rows in it."""

from __future__ import annotations

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from excise.resources.serving import PublishRequest
from service.artifacts import open_artifact_store
from service.database import Database, _alembic_config, fetch_revisions, upgrade_to_head
from service.keys.operations import authenticate
from service.models import Base
from service.serving import repository
from service.serving.publishing import publish_job
from service.serving.views import view_version
from service.settings import Settings
from tests.integration.serving.conftest import Stage, build_abilities_report

SERVING_TABLES = {"model_versions", "aliases", "serving_events", "pool_states"}


def downgrade(database: Database, revision: str) -> None:
    """Downgrade as an operator does who returns to an older release."""
    config = _alembic_config()
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


@pytest.fixture
def job_id(database: Database, settings: Settings, tenant: str) -> str:
    """A job whose correction is published, with rows in every table that refers to versions."""
    stage = Stage("", None, database, open_artifact_store(settings.artifacts), settings)
    report = build_abilities_report({"count on": (0.9, 0.9)})
    made, key = stage.make_job(tenant, report=report), stage.make_key(tenant, "publish")
    with database.transaction() as session:
        identity = authenticate(session, key)
        pools = settings.serving_pools
        request = PublishRequest(alias="a@b")
        publish_job(session, identity, made, request, pools, stage.artifacts, "once")
    return made


def test_an_earlier_version_has_no_abilities_on_record(
    database: Database, database_url: str, job_id: str
) -> None:
    downgrade(database, "0003")
    with database.engine.connect() as connection:
        columns = {column["name"] for column in inspect(connection).get_columns("model_versions")}
        assert "abilities" not in columns
    upgrade_to_head(database_url)
    with database.transaction() as session:
        version = repository.find_open_version(session, job_id)
        assert version is not None
        assert view_version(version).abilities is None


def test_down_and_up_again(
    database: Database, database_url: str, settings: Settings, job_id: str
) -> None:
    downgrade(database, "0002")
    with database.engine.connect() as connection:
        assert not SERVING_TABLES & set(inspect(connection).get_table_names())
        assert fetch_revisions(connection)[0] == "0002"
        found = connection.execute(text("SELECT count(*) FROM jobs WHERE id = :id"), {"id": job_id})
        assert found.scalar_one() == 1
    upgrade_to_head(database_url)
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        current, newest = fetch_revisions(connection)
        assert current == newest
