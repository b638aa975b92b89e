"""Which hosts are asked past the environment's proxies."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from excise.outgoing.proxies import goes_past_proxies

PUBLIC = "93.184.215.14"


def resolve_to(*addresses: str) -> Any:
    def resolve(host: str, port: object, **options: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]

    return resolve


def fail(host: str, port: object, **options: object) -> list[Any]:
    raise socket.gaierror(-2, "unknown")


@pytest.fixture(autouse=True)
def _proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.9.9.9", "localhost", "LOCALHOST", "localhost.", "api.localhost"),
        *("[::1]", "[::ffff:127.0.0.1]", "[fe80::1%25eth0]", "[fd00::1]", "[::]", "0.0.0.0"),
        *("10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.1.1", "100.64.0.1"),
    ],
)
def test_loopback_and_private_hosts_are_never_asked_through_a_proxy(host: str) -> None:
    for url in (f"http://{host}:8100/v1", f"https://{host}", f"http://user@{host}/"):
        assert goes_past_proxies(url, fail)


@pytest.mark.parametrize(
    "addresses", [("127.0.0.1",), ("10.0.0.1",), ("fd00::1",), (PUBLIC, "10.0.0.1")]
)
def test_nor_are_names_with_such_an_address(addresses: tuple[str, ...]) -> None:
    assert goes_past_proxies("http://excise.corp.example", resolve_to(*addresses))


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1"])
def test_nor_are_addresses_in_odd_spellings(host: str) -> None:
    assert goes_past_proxies(f"http://{host}/")  # as the system's resolver reads them


@pytest.mark.parametrize("host", [PUBLIC, "[2606:2800:21f:cb07:6820:80da:af6b:8b2c]", "a.example"])
def test_public_hosts_may_be(host: str) -> None:
    assert not goes_past_proxies(f"https://{host}/", resolve_to(PUBLIC))


@pytest.mark.parametrize("host", ["notlocalhost", "localhost.example.com", "unknown.example"])
def test_names_that_only_the_proxy_may_know_may_be(host: str) -> None:
    assert not goes_past_proxies(f"http://{host}/", fail)


@pytest.mark.parametrize("url", ["", "http://", "http://[", "no url"])
def test_what_is_no_url_is_left_to_whoever_asks_it(url: str) -> None:
    assert not goes_past_proxies(url, resolve_to("127.0.0.1"))


def test_nothing_is_looked_up_where_there_is_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("all_proxy", raising=False)

    def refuse(*arguments: object, **options: object) -> list[Any]:
        raise AssertionError

    assert not goes_past_proxies("http://a.example", refuse)
