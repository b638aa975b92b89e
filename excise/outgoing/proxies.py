"""Which requests bypass the proxies that the environment names: one rule for all of Excise.

A proxy named by HTTP_PROXY, HTTPS_PROXY or ALL_PROXY sees whole http requests including API keys,
and cannot reach this machine's private addresses. Therefore hosts that are not public are contacted
directly, whatever NO_PROXY says.
"""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

from excise.outgoing.endpoints import Resolve, is_public

_LOCAL_NAMES = ("localhost", ".localhost")


def goes_past_proxies(url: str, resolve: Resolve | None = None) -> bool:
    """Return whether requests to `url` must bypass the environment's proxies.

    They must if its host is, or has, an address that is not public: loopback, private, link-local
    or reserved. A name that cannot be looked up here may be known to the proxy, so it goes there.
    Nothing is looked up if the environment names no proxy.
    """
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:  # not a URL: the request itself will fail
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
