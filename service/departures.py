"""Clients that go away before they are answered."""

from __future__ import annotations

from fastapi import Request


async def wait_until_left(request: Request) -> None:
    """Return when the client has disconnected. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
