"""Reading the audit log, page by page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from service.audit import repository
from service.database import Database
from service.listing import cut_page
from service.models import AuditEntry

_EXPORT_PAGE = 1000


def list_entries(
    database: Database, tenant_id: str, *, after: int, limit: int, action: str | None
) -> tuple[Sequence[AuditEntry], bool]:
    """Return one page of the tenant's entries, oldest first, and whether there are more.

    A reader that continues after the last id of a page misses nothing.
    """
    newest = _find_newest(database)
    with database.transaction() as session:
        page = repository.list_page(
            session,
            newest=newest,
            after=after,
            limit=limit + 1,
            tenant_id=tenant_id,
            action=action,
        )
    return cut_page(page, limit)


def export_entries(
    database: Database, *, after: int, since: datetime | None, tenant_id: str | None
) -> Iterator[AuditEntry]:
    """Yield every entry so far, oldest first, of one tenant or of all."""
    newest = _find_newest(database)
    while True:
        with database.transaction() as session:
            page = repository.list_page(
                session,
                newest=newest,
                after=after,
                limit=_EXPORT_PAGE,
                tenant_id=tenant_id,
                since=since,
            )
        yield from page
        if len(page) < _EXPORT_PAGE:
            return
        after = page[-1].id


def _find_newest(database: Database) -> int:
    """Return the id up to which the log is complete; the lock for this is released on return."""
    with database.transaction() as session:
        return repository.find_newest(session)
