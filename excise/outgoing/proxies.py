"""Which requests go past the proxies that the environment names: one rule for all of Excise.

A proxy named by HTTP_PROXY, HTTPS_PROXY or ALL_PROXY sees whole requests over http, API keys
included, and cannot know what a private address means here. So hosts that are not on the open
internet are asked directly, whatever NO_PROXY says.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

from excise.outgoing.endpoints import Resolve, is_public

_LOCAL_NAMES = ("localhost", ".localhost")


def goes_past_proxies(url: str, resolve: Resolve | None = None) -> bool:
    """Return whether requests to `url` must not go through a proxy of the environment.

    They must not if its host is an address that is not public, or a name with one: loopback,
    private, link-local or reserved. A name that cannot be looked up here may be known to the
    proxy. Nothing is looked up where the environment names no proxy.
    """
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # no URL: whoever asks it will say so
        return False
    name = host.rstrip(".").lower()
    if name.endswith(_LOCAL_NAMES[1]) or name == _LOCAL_NAMES[0]:
        return True
    try:
        return not is_public(ipaddress.ip_address(name.partition("%")[0]))
    except ValueError:
        is_asked = bool(name) and bool(getproxies())
        return is_asked and _has_private_address(name, resolve or socket.getaddrinfo)


def _has_private_address(name: str, resolve: Resolve) -> bool:
    try:
        found = resolve(name, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    return any(not is_public(address) for address in addresses)
