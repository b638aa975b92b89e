"""Where requests come from."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address

from starlette.types import Scope


def find_address(scope: Scope) -> IPv4Address | IPv6Address | None:
    """Return the caller's address; None for a socket's path, or what a proxy took for one."""
    client = scope.get("client")
    try:
        return ip_address(client[0]) if client else None
    except ValueError:
        return None
