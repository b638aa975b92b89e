"""All queries on prompt sets."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from service.models import PromptSet


def insert_if_new(session: Session, prompt_set: PromptSet) -> bool:
    """Store the set unless the tenant already has it; return whether it was stored."""
    values = {
        column.name: getattr(prompt_set, column.name)
        for column in PromptSet.__table__.columns
        if column.name != "created_at"
    }
    statement = insert(PromptSet).values(**values).on_conflict_do_nothing()
    return session.execute(statement.returning(PromptSet.id)).one_or_none() is not None


def find_same(session: Session, like: PromptSet) -> PromptSet | None:
    """Return the tenant's set with the same name, format and content, or None."""
    statement = select(PromptSet).where(
        PromptSet.tenant_id == like.tenant_id,
        PromptSet.name == like.name,
        PromptSet.format == like.format,
        PromptSet.sha256 == like.sha256,
    )
    return session.scalars(statement).one_or_none()


def find(session: Session, tenant_id: str, prompt_set_id: str) -> PromptSet | None:
    """Return the tenant's set with this id, or None."""
    statement = select(PromptSet).where(
        PromptSet.tenant_id == tenant_id, PromptSet.id == prompt_set_id
    )
    return session.scalars(statement).one_or_none()


def list_page(
    session: Session, tenant_id: str, after: PromptSet | None, limit: int
) -> Sequence[PromptSet]:
    """Return up to `limit` of the tenant's sets older than `after`, newest first."""
    statement = select(PromptSet).where(PromptSet.tenant_id == tenant_id)
    if after is not None:
        position = tuple_(PromptSet.created_at, PromptSet.id)
        statement = statement.where(position < (after.created_at, after.id))
    order = (PromptSet.created_at.desc(), PromptSet.id.desc())
    return session.scalars(statement.order_by(*order).limit(limit)).all()
