"""Checking which addresses may be connected to: names are resolved once, private ranges refused."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

MAX_URL_CHARACTERS = 2048
PORTS = {"http": 80, "https": 443}

_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?"
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
"""The global unicast range that IANA assigns; site-local and local NAT64 are outside it, as is any
range assigned later."""
_SPECIAL = tuple(
    map(
        ipaddress.ip_network,
        ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2620:4f:8000::/48", "3fff::/20"),
    )
)
"""Ranges of IANA's registries of special-purpose addresses that Python 3.11 takes for public, whole
or in part. Some clouds answer with their machines' secrets in 192.0.0.0/24."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[..., list[Any]]
"""A function like `socket.getaddrinfo`."""


class OutgoingError(ValueError):
    """The address may not be connected to; the message names the reason and the remedy."""


@dataclass(frozen=True)
class Endpoint:
    """A URL without user, query and fragment, in parts that every parser reads in the same way."""

    scheme: str
    host: str
    """A name or an address in lower case; an IPv6 address without brackets."""
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The value of the `Host` header, with the port only if it is not the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL, assembled from the parts."""
        return f"{self.scheme}://{self.authority}{self.path}"


@dataclass(frozen=True)
class Destination:
    """An endpoint together with the address to connect to."""

    endpoint: Endpoint
    address: str

    @property
    def url(self) -> str:
        """The URL with the address in place of the host."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.endpoint.scheme}://{host}:{self.endpoint.port}{self.endpoint.path}"


def parse_endpoint(url: str) -> Endpoint:
    """Return the parts of an http or https URL. Raises `OutgoingError` if it has other parts."""
    match = _URL.fullmatch(url) if len(url) <= MAX_URL_CHARACTERS else None
    port = int(match["port"] or PORTS[match["scheme"]]) if match else 0
    if match is None or not 0 < port < 2**16:
        raise OutgoingError(
            "not a URL of the form https://host[:port]/path, without user, query and fragment, "
            f"of at most {MAX_URL_CHARACTERS} characters. Correct it."
        )
    host = match["host"].strip("[]").lower()
    return Endpoint(match["scheme"], host, port, match["path"] or "/")


def resolve_endpoint(
    endpoint: Endpoint,
    allowed_hosts: Collection[str] = (),
    resolve: Resolve = socket.getaddrinfo,
) -> Destination:
    """Return where to connect for `endpoint`; its name is looked up only here.

    `allowed_hosts` are names that the operator trusts: `host`, or `host:port` for a single port.
    They may be private and may use http; all others must use https, and all their addresses must
    be public. Raises `OutgoingError`.
    """
    is_allowed = bool({endpoint.host, f"{endpoint.host}:{endpoint.port}"} & set(allowed_hosts))
    if endpoint.scheme != "https" and not is_allowed:
        raise OutgoingError(
            f"{endpoint.host} would be called over http. Use https, or have the operator allow "
            "the host."
        )
    addresses = _look_up(endpoint, resolve)
    private = [address for address in addresses if not is_public(address)]
    if private and not is_allowed:
        raise OutgoingError(
            f"{endpoint.host} has an address that is not public. Use a public host, or have the "
            "operator allow this one."
        )
    return Destination(endpoint, str(addresses[0]))


def is_public(address: Address) -> bool:
    """Return whether `address`, and any IPv4 address embedded in it, is public."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if address.teredo is not None:
            return False
        if inner is not None:
            return is_public(inner)
        if address not in _GLOBAL_UNICAST:
            return False
    if any(address in special for special in _SPECIAL):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _look_up(endpoint: Endpoint, resolve: Resolve) -> list[Address]:
    try:
        found = resolve(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise OutgoingError(
            f"the name {endpoint.host} cannot be looked up ({error}). Correct it, or try again."
        ) from error
    # A scope ("%eth0") belongs to link-local addresses, which are not public anyway.
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not addresses:
        raise OutgoingError(f"the name {endpoint.host} has no address. Correct it.")
    return addresses
