"""How both clients connect: address, key and timeouts."""

from __future__ import annotations

import re
from typing import Any

import httpx

from excise.client.errors import ClientError

STREAM_TIMEOUT = httpx.Timeout(45.0, connect=5.0)
"""Timeouts of event streams, in seconds; the service sends a comment every 15 s."""

_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_PRINTABLE = re.compile(r"[!-~]+")


def build_settings(url: str, api_key: str | None) -> dict[str, Any]:
    """Return the arguments for httpx's clients. Raises `ClientError` for an impossible key."""
    headers = {"User-Agent": "excise-client"}
    if api_key:
        if not _PRINTABLE.fullmatch(api_key):  # a library's message would show it
            raise ClientError("The API key has invalid characters. Copy it again.")
        headers["Authorization"] = f"Bearer {api_key}"
    return {"base_url": url, "headers": headers, "timeout": _TIMEOUT}


def describe_bad_url(error: Exception) -> ClientError:
    """Return the error for an address that is not a URL."""
    return ClientError(f"The service's URL is malformed: {error}.")
