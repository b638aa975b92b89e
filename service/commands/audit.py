"""`excise audit`: exports the audit log directly from the database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from sqlalchemy import select

from excise.cli.output import CommandError, print_json
from excise.resources.audit import AuditEntryView
from service.audit.operations import export_entries
from service.commands.connection import open_database
from service.models import Tenant


def export_audit(
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Only this tenant's; all by default.")
    ] = None,
    after: Annotated[int, typer.Option("--after", min=0, help="Only entries after this id.")] = 0,
    since: Annotated[
        datetime | None, typer.Option("--since", help="Only from this time on (UTC).")
    ] = None,
) -> None:
    """Print the audit log, one JSON object per line, oldest first."""
    with open_database() as database:
        tenant_id = None
        if tenant is not None:
            with database.transaction() as session:
                tenant_id = session.scalar(select(Tenant.id).where(Tenant.name == tenant))
            if tenant_id is None:
                raise CommandError(f"There is no tenant {tenant!r}.", param="tenant")
        start = None if since is None else since.replace(tzinfo=UTC)
        for entry in export_entries(database, after=after, since=start, tenant_id=tenant_id):
            view = AuditEntryView.model_validate(entry, from_attributes=True)
            print_json(view.model_dump(mode="json", exclude={"object"}), on_one_line=True)
