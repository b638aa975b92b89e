"""`excise tenants`: tenants' usage, quotas and deletion, directly in the database."""

from __future__ import annotations

import os
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.table import Table
from sqlalchemy.orm import Session

from excise.cli.connection import JsonOption
from excise.cli.output import CommandError, build_console, clean, print_done, print_json
from excise.cli.tables import print_table
from excise.resources.tenants import Quotas
from service.artifacts import open_artifact_store
from service.commands.connection import find_home, open_database
from service.models import Tenant
from service.tenants import operations, repository

app = typer.Typer(no_args_is_help=True, help="List tenants, set their quotas, delete one.")

NameArgument = Annotated[str, typer.Argument(help="The tenant's name.")]


@app.command("list")
def list_tenants(as_json: JsonOption = False) -> None:
    """List all tenants with their usage and their own quotas."""
    with open_database() as database, database.transaction() as session:
        rows = [
            {
                "name": tenant.name,
                "id": tenant.id,
                "usage": repository.measure(session, tenant.id).model_dump(),
                "quotas": tenant.quotas or {},
            }
            for tenant in repository.list_tenants(session)
        ]
    if as_json:
        print_json(rows)
        return
    table = Table("name", "usage", "quotas of its own", box=None)
    for row in rows:
        table.add_row(clean(str(row["name"])), _join(row["usage"]), _join(row["quotas"]))
    print_table(table, build_console())


@app.command("quota")
def set_quota(
    name: NameArgument,
    changes: Annotated[
        list[str],
        typer.Argument(help="NAME=NUMBER, or NAME=default for the value in the settings."),
    ],
) -> None:
    """Set a tenant's own quotas."""
    wanted = dict(_parse_change(change) for change in changes)
    with open_database() as database, database.transaction() as session:
        operations.set_quotas(session, _find(session, name).id, wanted)
    print_done(f"{name}: {', '.join(changes)}")


@app.command("delete")
def delete_tenant(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="Confirm: nothing of it can be restored.")],
) -> None:
    """Delete a tenant with its keys, prompt sets, jobs, versions and files."""
    if not yes:
        raise CommandError("Nothing was deleted. Add --yes to delete the tenant for good.")
    store = open_artifact_store(
        os.environ.get("EXCISE_ARTIFACTS") or str(find_home() / "artifacts")
    )
    with open_database() as database:
        with database.transaction() as session:
            tenant_id = _find(session, name).id
        operations.delete_tenant(database, store, tenant_id)
    print_done(f"deleted {name}")


def _find(session: Session, name: str) -> Tenant:
    """Return the tenant with this name. Raises `CommandError`."""
    found = repository.find_by_name(session, name)
    if found is None:
        raise CommandError(f"There is no tenant {name!r}. See `excise tenants list`.")
    return found


def _parse_change(change: str) -> tuple[str, int | None]:
    """Return a quota's name and number. Raises `CommandError`."""
    name, _, number = change.partition("=")
    if name not in Quotas.model_fields:
        known = ", ".join(Quotas.model_fields)
        raise CommandError(f"There is no quota {name!r}. There are: {known}.")
    if number == "default":
        return name, None
    try:
        return name, getattr(Quotas.model_validate({name: int(number)}), name)
    except (ValueError, ValidationError):
        raise CommandError(f"{change!r} needs a whole number of at least 0.") from None


def _join(values: object) -> str:
    """Return the text of a table cell."""
    assert isinstance(values, dict)
    return ", ".join(f"{name} {value:,}" for name, value in values.items()) or "-"
