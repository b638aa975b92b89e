"""All queries on the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from service.models import AuditEntry

_WAIT = "2s"
"""How long a reader waits for transactions in progress; longer than any change by the API takes.
Chosen by hand."""


def find_newest(session: Session) -> int:
    """Return the id up to which the log is complete: no transaction in progress has a smaller one.

    Ids are assigned before their transactions commit, so a reader that relied on the largest
    visible id could miss entries. The lock waits for all writers and is released with the
    transaction. Raises `OperationalError` if they take too long.
    """
    session.execute(text(f"SET LOCAL lock_timeout = '{_WAIT}'"))
    session.execute(text("LOCK TABLE audit_log IN SHARE MODE"))
    return session.execute(select(func.coalesce(func.max(AuditEntry.id), 0))).scalar_one()


def list_page(
    session: Session,
    *,
    newest: int,
    after: int,
    limit: int,
    tenant_id: str | None = None,
    action: str | None = None,
    since: datetime | None = None,
) -> Sequence[AuditEntry]:
    """Return entries after one id and up to another, oldest first, of one tenant or of all."""
    statement = select(AuditEntry).where(AuditEntry.id > after, AuditEntry.id <= newest)
    if tenant_id is not None:
        statement = statement.where(AuditEntry.tenant_id == tenant_id)
    if action is not None:
        statement = statement.where(AuditEntry.action == action)
    if since is not None:
        statement = statement.where(AuditEntry.at >= since)
    return session.scalars(statement.order_by(AuditEntry.id).limit(limit)).all()
