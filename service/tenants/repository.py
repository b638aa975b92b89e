"""Every query about what tenants have, and the end of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Table, Text, cast, delete, func, or_, select
from sqlalchemy.orm import Session

from excise.names import OPEN_STATUSES
from excise.resources.tenants import Usage
from service.models import ApiKey, Base, Job, JobArtifact, PromptSet, StageResult, Tenant

_KEPT_IN_MIND = timedelta(days=1)


def find(session: Session, tenant_id: str) -> Tenant | None:
    """The tenant."""
    return session.get(Tenant, tenant_id, populate_existing=True)


def find_by_name(session: Session, name: str) -> Tenant | None:
    """The tenant of this name."""
    return session.scalars(select(Tenant).where(Tenant.name == name)).one_or_none()


def list_tenants(session: Session) -> list[Tenant]:
    """Every tenant, by name."""
    return list(session.scalars(select(Tenant).order_by(Tenant.name)))


def lock(session: Session, tenant_id: str) -> dict[str, Any] | None:
    """The tenant's own quotas; whoever else changes what it has waits until the transaction ends.

    Locked after keys and before everything else.
    """
    statement = select(Tenant.quotas).where(Tenant.id == tenant_id)
    return session.execute(statement.with_for_update(key_share=True)).scalar_one()


def measure_prompt_sets(session: Session, tenant_id: str) -> tuple[int, int]:
    """How many prompt sets the tenant has, and their bytes."""
    statement = select(func.count(), func.coalesce(func.sum(PromptSet.bytes), 0))
    count, size = session.execute(statement.where(PromptSet.tenant_id == tenant_id)).one()
    return count, int(size)


def count_jobs(session: Session, tenant_id: str, *, is_open: bool = False) -> int:
    """How many jobs the tenant has, or how many that have not ended."""
    statement = select(func.count(Job.id)).where(Job.tenant_id == tenant_id)
    if is_open:
        statement = statement.where(Job.status.in_(OPEN_STATUSES))
    return session.execute(statement).scalar_one()


def measure_jobs(session: Session, tenant_id: str) -> int:
    """Bytes of the tenant's jobs: specs as they are stored, and files."""
    specs = select(func.coalesce(func.sum(func.pg_column_size(Job.spec)), 0))
    files = select(func.coalesce(func.sum(JobArtifact.bytes), 0)).join(
        Job, Job.id == JobArtifact.job_id
    )
    of_tenant = Job.tenant_id == tenant_id
    return sum(int(session.execute(each.where(of_tenant)).scalar_one()) for each in (specs, files))


def count_keys(session: Session, tenant_id: str) -> int:
    """How many keys of the tenant are valid or were revoked within a day."""
    since = func.clock_timestamp() - _KEPT_IN_MIND
    counts = or_(ApiKey.revoked_at.is_(None), ApiKey.revoked_at > since)
    statement = select(func.count(ApiKey.id)).where(ApiKey.tenant_id == tenant_id, counts)
    return session.execute(statement).scalar_one()


def measure(session: Session, tenant_id: str) -> Usage:
    """Everything that quotas limit and the database knows."""
    prompt_sets, prompt_set_bytes = measure_prompt_sets(session, tenant_id)
    return Usage(
        prompt_sets=prompt_sets,
        prompt_set_bytes=prompt_set_bytes,
        jobs=count_jobs(session, tenant_id),
        open_jobs=count_jobs(session, tenant_id, is_open=True),
        job_bytes=measure_jobs(session, tenant_id),
        keys=count_keys(session, tenant_id),
    )


def is_prompt_set_in_use(session: Session, tenant_id: str, prompt_set_id: str) -> bool:
    """Whether a job of the tenant that has not ended names the set."""
    statement = select(Job.id).where(
        Job.tenant_id == tenant_id,
        Job.status.in_(OPEN_STATUSES),
        cast(Job.spec, Text).contains(prompt_set_id),
    )
    return session.scalar(statement.limit(1)) is not None


def list_files(session: Session, of_jobs: ColumnElement[bool]) -> Sequence[tuple[str, str]]:
    """Job and hash of everything those jobs have in the artifact store."""
    files = select(JobArtifact.job_id, JobArtifact.sha256).join(Job, Job.id == JobArtifact.job_id)
    results = select(StageResult.job_id, StageResult.sha256).join(Job, Job.id == StageResult.job_id)
    rows = session.execute(files.where(of_jobs).union(results.where(of_jobs)))
    return [(row.job_id, row.sha256) for row in rows]


def delete_job(session: Session, job_id: str) -> None:
    """Forget the job and every row that belongs to it."""
    for table in _list_tables():
        _delete_of_jobs(session, table, Job.id == job_id)
    session.execute(
        delete(Job).where(Job.id == job_id).execution_options(synchronize_session=False)
    )


def delete_tenant(session: Session, tenant_id: str) -> None:
    """Forget the tenant and all that belongs to it; a record that refers to no row stays."""
    for table in _list_tables():
        if "tenant_id" in table.c and table.foreign_keys:
            session.execute(delete(table).where(table.c.tenant_id == tenant_id))
        else:
            _delete_of_jobs(session, table, Job.tenant_id == tenant_id)
    session.execute(
        delete(Tenant).where(Tenant.id == tenant_id).execution_options(synchronize_session=False)
    )


def _delete_of_jobs(session: Session, table: Table, of_jobs: ColumnElement[bool]) -> None:
    """Delete the table's rows that refer to those jobs."""
    for key in table.foreign_keys:
        if key.column is Job.__table__.c.id:
            session.execute(delete(table).where(key.parent.in_(select(Job.id).where(of_jobs))))


def _list_tables() -> list[Table]:
    """Every table, those that refer to others before these."""
    return list(reversed(Base.metadata.sorted_tables))
