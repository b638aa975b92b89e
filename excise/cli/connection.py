"""How the commands reach the service: its address and the key, from flags and the environment."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from excise.cli.output import CommandError
from excise.client import Client

DEFAULT_URL = "http://127.0.0.1:8100"
DEFAULT_PATIENCE_SECONDS = 5.0
WAITING_PATIENCE_SECONDS = 120.0

UrlOption = Annotated[
    str, typer.Option("--url", envvar="EXCISE_URL", help="Where the service answers.")
]
LimitOption = Annotated[int, typer.Option(min=1, max=100, help="How many to list.")]
AfterOption = Annotated[str | None, typer.Option(help="The last id of the page before.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def open_client(url: str, *, is_waiting: bool = False) -> Client:
    """Return a client with the key from EXCISE_API_KEY; a flag would be visible to other users."""
    patience = WAITING_PATIENCE_SECONDS if is_waiting else DEFAULT_PATIENCE_SECONDS
    return Client(url, _read_key(), patience_seconds=patience)


def _read_key() -> str:
    """Return the API key. Raises `CommandError`."""
    key = os.environ.get("EXCISE_API_KEY", "").strip()
    if not key:
        raise CommandError(
            "EXCISE_API_KEY is not set. Make a key with `excise keys create` and export it."
        )
    return key
