"""`excise audit-log`: who changed what in a tenant, for the tenant's admins."""

from __future__ import annotations

from typing import Annotated

import typer

from excise.cli.connection import DEFAULT_URL, UrlOption, open_client
from excise.cli.output import print_json


def print_audit_log(
    after: Annotated[int, typer.Option("--after", min=0, help="Only entries after this id.")] = 0,
    action: Annotated[
        str | None, typer.Option("--action", help="Only changes of this kind, such as job.submit.")
    ] = None,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Print the changes in the key's tenant, one JSON object per line, oldest first."""
    with open_client(url) as client:
        for entry in client.audit(after=after, action=action):
            print_json(entry.model_dump(mode="json", exclude={"object"}), on_one_line=True)
