"""All queries on tenants and API keys."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.models import ApiKey, Tenant, new_id

_USE_RESOLUTION = timedelta(minutes=1)


def ensure_tenant(session: Session, name: str) -> str:
    """Return the id of the tenant called `name`, which is created if there is none."""
    statement = insert(Tenant).values(id=new_id("ten"), name=name)
    # an update that changes nothing locks the row, which could otherwise be deleted meanwhile
    kept = statement.on_conflict_do_update(index_elements=[Tenant.name], set_={"name": name})
    return session.execute(kept.returning(Tenant.id)).scalar_one()


def add_key(session: Session, key: ApiKey) -> None:
    """Store a new key."""
    session.add(key)
    session.flush()


def find_valid_key(session: Session, sha256: str) -> ApiKey | None:
    """Return the key with this hash, or None if it does not exist or was revoked."""
    statement = select(ApiKey).where(ApiKey.sha256 == sha256, ApiKey.revoked_at.is_(None))
    return session.scalars(statement).one_or_none()


def find_key(session: Session, tenant_id: str, key_id: str) -> ApiKey | None:
    """Return the tenant's key with this id, locked against other changes, or None."""
    statement = select(ApiKey).where(ApiKey.tenant_id == tenant_id, ApiKey.id == key_id)
    return session.scalars(statement.with_for_update(key_share=True)).one_or_none()


def is_key_valid(session: Session, key_id: str) -> bool:
    """Return whether the key exists and has not been revoked."""
    return key_id in find_valid_keys(session, [key_id])


def find_valid_keys(session: Session, key_ids: Collection[str]) -> set[str]:
    """Return those of the keys that exist and have not been revoked."""
    statement = select(ApiKey.id).where(ApiKey.id.in_(key_ids), ApiKey.revoked_at.is_(None))
    return set(session.scalars(statement))


def list_keys(session: Session, tenant_id: str) -> Sequence[ApiKey]:
    """Return the tenant's keys, newest first."""
    statement = (
        select(ApiKey).where(ApiKey.tenant_id == tenant_id).order_by(ApiKey.created_at.desc())
    )
    return session.scalars(statement).all()


def touch_key(session: Session, key_id: str) -> None:
    """Record that the key was used, at most once a minute so that most reads write nothing."""
    now = func.clock_timestamp()
    is_stale = ApiKey.last_used_at.is_(None) | (ApiKey.last_used_at < now - _USE_RESOLUTION)
    session.execute(
        update(ApiKey)
        .where(ApiKey.id == key_id, is_stale)
        .values(last_used_at=now)
        .execution_options(synchronize_session=False)
    )
