"""`excise keys`: creates and revokes API keys directly in the database."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from sqlalchemy import select

from excise.cli.connection import JsonOption
from excise.cli.output import (
    CommandError,
    build_console,
    clean,
    print_done,
    print_json,
    print_line,
    shown_once,
)
from excise.cli.tables import print_table
from excise.names import KeyScope
from service.commands.connection import open_database
from service.keys import operations, repository
from service.models import ApiKey, Tenant

app = typer.Typer(no_args_is_help=True, help="Create, list and revoke API keys.")

TenantOption = Annotated[str, typer.Option("--tenant", help="The tenant that owns the key.")]


@app.command("create")
def create_key(
    tenant: TenantOption = "default",
    scope: Annotated[
        list[KeyScope] | None, typer.Option(help="May be given several times.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the key.")] = "cli",
) -> None:
    """Create a key and print it on standard output; it cannot be shown again.

    It is printed before it is kept, so that none is kept that nobody knows.
    """
    scopes = [chosen.value for chosen in scope or [KeyScope.SUBMIT]]
    with open_database() as database, database.transaction() as session:
        secret = operations.create_tenant_key(session, tenant, name, scopes)
        with shown_once("No key was made."):
            print_line(secret)


@app.command("list")
def list_keys(tenant: TenantOption = "default", as_json: JsonOption = False) -> None:
    """List a tenant's keys, newest first; the keys themselves are not stored."""
    with open_database() as database, database.transaction() as session:
        tenant_id = session.scalar(select(Tenant.id).where(Tenant.name == tenant))
        keys = repository.list_keys(session, tenant_id) if tenant_id is not None else []
        rows = [_describe_key(key) for key in keys]
    if as_json:
        print_json(rows)
        return
    table = Table("id", "name", "begins with", "scopes", "created", "revoked", box=None)
    for row in rows:
        table.add_row(*(clean(_join(value)) for value in row.values()))
    print_table(table, build_console())


@app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="The key's id, as `keys list` shows it.")],
    tenant: TenantOption = "default",
) -> None:
    """Revoke a key, with immediate effect."""
    with open_database() as database, database.transaction() as session:
        tenant_id = session.scalar(select(Tenant.id).where(Tenant.name == tenant))
        if tenant_id is None:
            raise CommandError(f"There is no tenant {tenant!r}.", param="tenant")
        operations.revoke_key(session, tenant_id, key_id)
    print_done(f"revoked {key_id}")


def _describe_key(key: ApiKey) -> dict[str, str | list[str] | None]:
    """Return the facts about a key that may be shown."""
    return {
        "id": key.id,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": list(key.scopes),
        "created_at": key.created_at.isoformat(timespec="seconds"),
        "revoked_at": key.revoked_at.isoformat(timespec="seconds") if key.revoked_at else None,
    }


def _join(value: str | list[str] | None) -> str:
    """Return the text of a table cell."""
    return ", ".join(value) if isinstance(value, list) else value or "-"
