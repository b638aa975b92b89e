"""What may be connected to, and what may not."""

from __future__ import annotations

import ipaddress
import socket

import pytest

from excise.outgoing.endpoints import (
    Endpoint,
    OutgoingError,
    is_public,
    parse_endpoint,
    resolve_endpoint,
)


def resolver(*addresses: str):
    """A resolver that answers with these addresses, and counts how often it was asked."""
    asked = []

    def resolve(host: str, port: int, **options: object) -> list[tuple]:
        asked.append(host)
        return [(0, 0, 0, "", (address, port)) for address in addresses]

    resolve.asked = asked  # type: ignore[attr-defined]
    return resolve


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://Scorer.Example/score", Endpoint("https", "scorer.example", 443, "/score")),
        ("https://scorer.example", Endpoint("https", "scorer.example", 443, "/")),
        ("http://10.0.0.1:8080/v1/a-b", Endpoint("http", "10.0.0.1", 8080, "/v1/a-b")),
        ("https://[2001:DB8::1]:8443/x", Endpoint("https", "2001:db8::1", 8443, "/x")),
    ],
)
def test_parts(url: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(url) == endpoint


def test_the_port_is_said_only_where_it_matters() -> None:
    assert parse_endpoint("https://a.b:443/x").url == "https://a.b/x"
    assert parse_endpoint("https://a.b:444/x").url == "https://a.b:444/x"
    assert parse_endpoint("https://[::1]:444/x").authority == "[::1]:444"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "scorer.example/score",
        "ftp://scorer.example/",
        "file:///etc/passwd",
        "https://user:secret@scorer.example/",
        "https://public.example@10.0.0.1/",
        "https://scorer.example/?token=x",
        "https://scorer.example/#x",
        "https://scorer.example\\@10.0.0.1/",
        "https://scorer.example/a b",
        "https://scorer.example/\r\nHost: x",
        "https://scorer.example:0/",
        "https://scorer.example:65536/",
        "https:///score",
        "https://scorer.example/" + "a" * 2048,
    ],
)
def test_not_a_url_that_is_taken(url: str) -> None:
    with pytest.raises(OutgoingError, match="not a URL of the form"):
        parse_endpoint(url)


def test_the_name_is_looked_up_once_and_its_address_used() -> None:
    resolve = resolver("93.184.216.34", "2606:2800:220:1::1")
    destination = resolve_endpoint(parse_endpoint("https://a.example/x"), resolve=resolve)
    assert destination.url == "https://93.184.216.34:443/x"
    assert destination.endpoint.authority == "a.example"
    assert resolve.asked == ["a.example"]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "2002:a00:1::1",
        "2001:0:a00:1::1",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "fec0::1",
        "64:ff9b:1::808:808",
        "100::1",
        "3fff::1",
        "192.0.0.9",
        "192.0.0.192",
        "192.88.99.1",
        "2001:1::1",
        "2620:4f:8000::1",
        "5f00::1",
        "2001:db8::1",
        "::808:808",
    ],
)
def test_private_addresses_are_refused(address: str) -> None:
    endpoint = parse_endpoint("https://a.example/")
    with pytest.raises(OutgoingError, match=r"a\.example has an address that is not public"):
        resolve_endpoint(endpoint, resolve=resolver(address))
    with pytest.raises(OutgoingError, match="not public"):  # one among several is enough
        resolve_endpoint(endpoint, resolve=resolver("93.184.216.34", address))


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("literal", ["2130706433", "0x7f000001", "127.1", "017700000001"])
def test_other_spellings_of_this_machine_are_refused(literal: str) -> None:
    with pytest.raises(OutgoingError):
        resolve_endpoint(parse_endpoint(f"https://{literal}/"))


@pytest.mark.parametrize("allowed", ["a.example", "a.example:8080"])
def test_an_allowed_host_may_be_private_and_http(allowed: str) -> None:
    endpoint = parse_endpoint("http://A.example:8080/x")
    destination = resolve_endpoint(endpoint, [allowed], resolver("10.0.0.1"))
    assert destination.url == "http://10.0.0.1:8080/x"


@pytest.mark.parametrize("allowed", ["example", "b.example", "a.example:80", "*", ""])
def test_another_host_is_not_allowed_with_it(allowed: str) -> None:
    endpoint = parse_endpoint("https://a.example:8080/x")
    with pytest.raises(OutgoingError, match="not public"):
        resolve_endpoint(endpoint, [allowed], resolver("10.0.0.1"))


def test_http_is_refused_elsewhere() -> None:
    with pytest.raises(OutgoingError, match="Use https"):
        resolve_endpoint(parse_endpoint("http://a.example/"), resolve=resolver("8.8.8.8"))


def test_unknown_names() -> None:
    def fail(*arguments: object, **options: object) -> list:
        raise socket.gaierror("no such name")

    with pytest.raises(OutgoingError, match="cannot be looked up"):
        resolve_endpoint(parse_endpoint("https://a.example/"), resolve=fail)
    with pytest.raises(OutgoingError, match="has no address"):
        resolve_endpoint(parse_endpoint("https://a.example/"), resolve=resolver())
