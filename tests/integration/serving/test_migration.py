"""The schema of serving goes down and up again, with rows in it."""

from __future__ import annotations

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from service.artifacts import open_artifact_store
from service.database import Database, _alembic_config, fetch_revisions, upgrade_to_head
from service.keys.operations import authenticate
from service.models import Base
from service.serving.publishing import publish_job
from service.serving.schemas import PublishRequest
from service.settings import Settings
from tests.integration.serving.conftest import Stage

SERVING_TABLES = {"model_versions", "aliases", "serving_events", "pool_states"}


def downgrade(database: Database, revision: str) -> None:
    """What an operator does who goes back to an older release."""
    config = _alembic_config()
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


@pytest.fixture
def job_id(database: Database, settings: Settings, tenant: str) -> str:
    """A job whose correction is published: rows in every table that knows of versions."""
    stage = Stage("", None, database, open_artifact_store(settings.artifacts), settings)
    made, key = stage.make_job(tenant), stage.make_key(tenant, "publish")
    with database.transaction() as session:
        identity = authenticate(session, key)
        pools = settings.serving_pools
        publish_job(session, identity, made, PublishRequest(alias="a@b"), pools, "once")
    return made


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
