"""Jobs in a real database, and the settings of a worker that would run them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from excise.resources.tenants import Quotas
from excise.specs import CorrectionSpec
from excise.specs.behaviours import RepetitionSpec
from service.database import Database
from service.jobs.execution import Claim, claim_job
from service.jobs.operations import submit_job
from service.keys.operations import authenticate, create_tenant_key
from service.models import new_id
from service.prompt_sets.operations import create_prompt_set
from tests.integration.service.conftest import build_checkpoint, clear_jobs
from workers.settings import WorkerSettings


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> WorkerSettings:
    """Settings of a worker with short intervals and timeouts."""
    build_checkpoint(tmp_path / "models" / "tiny")
    return WorkerSettings(
        database_url=SecretStr(database_url),
        artifacts=str(tmp_path / "artifacts"),
        model_roots=(tmp_path / "models",),
        lease_seconds=30,
        heartbeat_seconds=0.2,
        cancel_grace_seconds=0.5,
        silence_seconds=0.5,
        device="cpu",
    )


@pytest.fixture
def make_job(database: Database, settings: WorkerSettings) -> Callable[[], str]:
    """A function that submits a job; only this test's jobs are open."""
    clear_jobs(database)

    def make() -> str:
        with database.transaction() as session:
            key = create_tenant_key(session, new_id("tenant"), "test")
            identity = authenticate(session, key)

            def upload(name: str, count: int) -> str:
                content = "\n".join(f"{name} {number}" for number in range(count)).encode()
                created = create_prompt_set(
                    session, identity.tenant_id, name, "text/plain", content, Quotas()
                )
                return str(created[0].id)

            behaviour = RepetitionSpec(
                name="repetition", kind="repetition", prompts=upload("undesired", 8)
            )
            spec = CorrectionSpec(
                kind="correction",
                model="tiny",
                behaviours=[behaviour],
                reference=upload("reference", 16),
            )
            return str(submit_job(session, identity, spec, settings)[0].id)

    return make


@pytest.fixture
def job_id(make_job: Callable[[], str]) -> str:
    """A queued job."""
    return make_job()


def claim(database: Database, job_id: str, worker: str = "worker") -> Claim:
    """Claim the job, taking it from another worker if one holds it."""
    with database.transaction() as session:
        session.execute(
            text("UPDATE jobs SET lease_expires_at = now() - interval '1 second' WHERE id = :id"),
            {"id": job_id},
        )
        found = claim_job(session, job_id, worker, 30)
    assert found
    return found
