"""All queries about versions, aliases, their events and the pools' observed state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, func, or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from excise.names import OPEN_STATUSES, VersionKind
from service.listing import page_back
from service.models import (
    CALLABLE_STATUSES,
    ENDED_STATUSES,
    WANTED_STATUSES,
    Alias,
    Job,
    ModelVersion,
    PoolState,
    ServingEvent,
)

PUBLISHED_AT_ONCE = 20
"""Largest number of jobs that are read for publication at a time. Chosen by hand."""

_FRESH = {"populate_existing": True}


def find_version(
    session: Session, tenant_id: str, version_id: str, *, lock: bool = False
) -> ModelVersion | None:
    """Return the tenant's version, freshly read from the database."""
    statement = select(ModelVersion).where(
        ModelVersion.tenant_id == tenant_id, ModelVersion.id == version_id
    )
    if lock:
        statement = statement.with_for_update()
    return session.scalars(statement, execution_options=_FRESH).one_or_none()


def find_open_version(session: Session, job_id: str) -> ModelVersion | None:
    """Return the job's version that has neither failed nor been retired, locked."""
    statement = select(ModelVersion).where(
        ModelVersion.job_id == job_id, ModelVersion.status.not_in(ENDED_STATUSES)
    )
    locked = statement.with_for_update()
    return session.scalars(locked, execution_options=_FRESH).one_or_none()


def list_versions(
    session: Session, tenant_id: str, before_number: int | None, limit: int
) -> Sequence[ModelVersion]:
    """Return up to `limit` of the tenant's versions published before that one, newest first."""
    statement = select(ModelVersion).where(ModelVersion.tenant_id == tenant_id)
    return session.scalars(page_back(statement, ModelVersion.number, before_number, limit)).all()


def list_callable_versions(session: Session, tenant_id: str) -> Sequence[ModelVersion]:
    """Return the tenant's versions that are live, or were and will be again, newest first."""
    statement = select(ModelVersion).where(
        ModelVersion.tenant_id == tenant_id, ModelVersion.status.in_(CALLABLE_STATUSES)
    )
    return session.scalars(statement.order_by(ModelVersion.number.desc())).all()


def insert_version(session: Session, version: ModelVersion) -> None:
    """Store a new version."""
    session.add(version)
    session.flush()


def lock_pool(session: Session, pool: str) -> None:
    """Make others that publish to the same pool wait until the transaction ends."""
    statement = text("SELECT pg_advisory_xact_lock(hashtextextended('excise-pool-' || :pool, 0))")
    session.execute(statement, {"pool": pool})


def list_holders(session: Session, pool: str) -> Sequence[ModelVersion]:
    """Return the versions that hold a place on the pool's server, loaded or not, oldest first."""
    statement = select(ModelVersion).where(
        ModelVersion.pool == pool, ModelVersion.status.not_in(ENDED_STATUSES)
    )
    return session.scalars(statement.order_by(ModelVersion.number)).all()


def lock_formerly_aliased_checkpoints(session: Session, base_model: str) -> Sequence[ModelVersion]:
    """Return the served whole checkpoints that an alias points to or once pointed to, locked.

    Checkpoints locked by others are skipped.
    """
    was_aliased = select(ServingEvent.id).where(
        ServingEvent.version_id == ModelVersion.id, ServingEvent.kind.in_(("promote", "split"))
    )
    statement = (
        select(ModelVersion)
        .where(
            ModelVersion.base_model == base_model,
            ModelVersion.kind == VersionKind.CHECKPOINT,
            ModelVersion.status.in_(WANTED_STATUSES),
            was_aliased.exists(),
        )
        .order_by(ModelVersion.number)
        .with_for_update(skip_locked=True)
    )
    return session.scalars(statement, execution_options=_FRESH).all()


def list_aliases_of(session: Session, version_ids: Sequence[str]) -> Sequence[Alias]:
    """Return all tenants' aliases that refer to one of the versions, even only for a rollback."""
    columns = (Alias.version_id, Alias.previous_version_id, Alias.split_version_id)
    refers = or_(*(column.in_(version_ids) for column in columns))
    return session.scalars(select(Alias).where(refers).order_by(Alias.name)).all()


def list_kept_files(session: Session, kept_seconds: float) -> Sequence[Mapping[str, str]]:
    """Return the files of every version that may be served, or was until `kept_seconds` ago."""
    since = func.clock_timestamp() - timedelta(seconds=kept_seconds)
    statement = select(ModelVersion.files).where(
        or_(ModelVersion.status.not_in(ENDED_STATUSES), ModelVersion.ended_at > since)
    )
    return session.scalars(statement).all()


def list_wanted(session: Session, pool: str) -> Sequence[ModelVersion]:
    """Return the versions that belong on the pool's server, oldest first."""
    statement = select(ModelVersion).where(
        ModelVersion.pool == pool, ModelVersion.status.in_(WANTED_STATUSES)
    )
    return session.scalars(statement.order_by(ModelVersion.number)).all()


def lock_wanted(session: Session, version_id: str) -> ModelVersion | None:
    """Return the version, locked, if it still belongs on a server."""
    statement = select(ModelVersion).where(
        ModelVersion.id == version_id, ModelVersion.status.in_(WANTED_STATUSES)
    )
    locked = statement.with_for_update()
    return session.scalars(locked, execution_options=_FRESH).one_or_none()


def lock_wanted_with_alias(session: Session, version_id: str) -> ModelVersion | None:
    """Return the same version, after locking the alias it was published for: aliases come first."""
    statement = select(ModelVersion.tenant_id, ModelVersion.target_alias).where(
        ModelVersion.id == version_id
    )
    row = session.execute(statement).one_or_none()
    if row is not None and row.target_alias is not None:
        lock_alias(session, row.tenant_id, row.target_alias)
    return lock_wanted(session, version_id)


def find_alias(session: Session, tenant_id: str, name: str, *, lock: bool = False) -> Alias | None:
    """Return the tenant's alias, freshly read from the database."""
    statement = select(Alias).where(Alias.tenant_id == tenant_id, Alias.name == name)
    if lock:
        statement = statement.with_for_update()
    return session.scalars(statement, execution_options=_FRESH).one_or_none()


def lock_alias(session: Session, tenant_id: str, name: str) -> Alias | None:
    """Return the tenant's alias, locked; if there is none, nobody else can create it meanwhile."""
    found = find_alias(session, tenant_id, name, lock=True)
    if found is not None:
        return found
    statement = text("SELECT pg_advisory_xact_lock(hashtextextended('excise-alias-' || :name, 0))")
    session.execute(statement, {"name": f"{tenant_id} {name}"})
    return find_alias(session, tenant_id, name, lock=True)


def insert_alias(session: Session, tenant_id: str, name: str, version_id: str) -> Alias:
    """Create an alias, whose name `lock_alias` has locked, that points to the version."""
    statement = insert(Alias).values(tenant_id=tenant_id, name=name, version_id=version_id)
    return session.scalars(statement.returning(Alias), execution_options=_FRESH).one()


def list_aliases(session: Session, tenant_id: str, *, lock: bool = False) -> Sequence[Alias]:
    """Return the tenant's aliases, by name."""
    statement = select(Alias).where(Alias.tenant_id == tenant_id).order_by(Alias.name)
    if lock:
        statement = statement.with_for_update()
    return session.scalars(statement, execution_options=_FRESH).all()


def list_alias_events(
    session: Session, tenant_id: str, alias: str, after: int, limit: int
) -> Sequence[ServingEvent]:
    """Return up to `limit` of an alias's events with larger ids, oldest first."""
    return _list_events(session, tenant_id, ServingEvent.alias == alias, after, limit)


def list_version_events(
    session: Session, tenant_id: str, version_id: str, after: int, limit: int
) -> Sequence[ServingEvent]:
    """Return up to `limit` of a version's events with larger ids, oldest first."""
    of_version = ServingEvent.version_id == version_id
    return _list_events(session, tenant_id, of_version, after, limit)


def list_jobs_to_publish(session: Session) -> Sequence[str]:
    """Return the ids of jobs that have ended and are to be published if they passed.

    The oldest come first, at most `PUBLISHED_AT_ONCE`.
    """
    statement = select(Job.id).where(Job.publish_to.is_not(None), Job.status.not_in(OPEN_STATUSES))
    return session.scalars(statement.order_by(Job.number).limit(PUBLISHED_AT_ONCE)).all()


def list_pool_states(session: Session) -> Sequence[PoolState]:
    """Return the last observed state of every pool."""
    return session.scalars(select(PoolState), execution_options=_FRESH).all()


def find_pool_state(session: Session, name: str) -> PoolState | None:
    """Return the last observed state of the pool."""
    return session.get(PoolState, name, populate_existing=True)


def store_pool_state(
    session: Session, name: str, status: str, detail: str, server_version: str | None
) -> None:
    """Store the observed state of a pool."""
    values = {"status": status, "detail": detail, "server_version": server_version}
    session.execute(
        insert(PoolState)
        .values(name=name, **values)
        .on_conflict_do_update(
            index_elements=["name"], set_={**values, "checked_at": func.clock_timestamp()}
        )
    )


def _list_events(
    session: Session, tenant_id: str, of_subject: ColumnElement[bool], after: int, limit: int
) -> Sequence[ServingEvent]:
    statement = select(ServingEvent).where(
        ServingEvent.tenant_id == tenant_id, of_subject, ServingEvent.id > after
    )
    return session.scalars(statement.order_by(ServingEvent.id).limit(limit)).all()
