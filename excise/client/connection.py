"""How either client connects: address, key and timeouts."""

from __future__ import annotations

import re
from typing import Any

import httpx

from excise.client.errors import ClientError

STREAM_TIMEOUT = httpx.Timeout(45.0, connect=5.0)
"""Of event streams; the service sends a comment every 15 s."""

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_PRINTABLE = re.compile(r"[!-~]+")


def build_settings(url: str, api_key: str | None) -> dict[str, Any]:
    """What httpx's clients are made with. Raises `ClientError` for a key that is none."""
    headers = {"User-Agent": "excise-client"}
    if api_key:
        if not _PRINTABLE.fullmatch(api_key):  # a library's message would show it
            raise ClientError("The API key has characters no key has. Copy it again.")
        headers["Authorization"] = f"Bearer {api_key}"
    return {"base_url": url, "headers": headers, "timeout": _TIMEOUT}


def describe_bad_url(error: Exception) -> ClientError:
    """What is said of an address that cannot be one."""
    return ClientError(f"The service's URL is malformed: {error}.")
