"""One post: what counts as delivered, and what is never connected to."""

from __future__ import annotations

import asyncio
import ssl
import time
from functools import partial

import pytest

from excise.outgoing.endpoints import resolve_endpoint
from service.webhooks.sending import Outcome, send
from tests.unit.excise.outgoing.servers import Reply, Request, serve


def post(url: str, allowed: tuple[str, ...] = (), deadline: float = 5.0) -> Outcome:
    headers = {"webhook-id": "evt_1"}
    return asyncio.run(send(url, headers, b"{}", allowed, deadline_seconds=deadline))


@pytest.mark.parametrize("status", [200, 202, 204])
def test_any_success_counts(status: int) -> None:
    with serve(lambda request: Reply(b"", status)) as server:
        host = f"127.0.0.1:{server.port}"
        outcome = post(f"http://{host}/hook", (host,))
    assert (outcome.status_code, outcome.error, outcome.is_delivered) == (status, None, True)
    (request,) = server.requests
    assert (request.path, request.headers["Host"]) == ("/hook", host)
    assert request.headers["webhook-id"] == "evt_1"


@pytest.mark.parametrize(
    ("status", "words"), [(302, "a redirect"), (400, "answered 400"), (503, "answered 503")]
)
def test_anything_else_does_not_and_redirects_are_not_followed(status: int, words: str) -> None:
    with serve(lambda request: Reply(b"", status, {"Location": "/elsewhere"})) as server:
        host = f"127.0.0.1:{server.port}"
        outcome = post(f"http://{host}/", (host,))
    assert outcome.status_code == status
    assert words in (outcome.error or "")
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://10.0.0.1/",
        "https://localhost/",
        "http://93.184.216.34/",
        "https://user:pass@example.com/",
    ],
)
def test_addresses_that_are_not_public_https_are_not_connected_to(url: str) -> None:
    outcome = post(url)
    assert outcome.status_code is None
    assert any(word in (outcome.error or "") for word in ("not public", "over http", "not a URL"))


def test_the_name_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that turns private after it was checked is connected to as it was checked."""
    with serve(lambda request: Reply(b"")) as server:
        host = f"hooks.test:{server.port}"
        answers = iter(["127.0.0.1", "10.9.9.9"])

        def resolve(name: str, port: int, **options: object) -> list[object]:
            return [(2, 1, 6, "", (next(answers), port))]

        checked = partial(resolve_endpoint, resolve=resolve)
        monkeypatch.setattr("service.webhooks.sending.resolve_endpoint", checked)
        outcome = post(f"http://{host}/", (host,))
    assert outcome.is_delivered
    assert server.requests[0].headers["Host"] == host


def test_a_receiver_that_drips_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(request: Request) -> Reply:
        time.sleep(1.5)
        return Reply(b"")

    with serve(drip) as server:
        host = f"127.0.0.1:{server.port}"
        outcome = post(f"http://{host}/", (host,), deadline=0.3)
    assert outcome.error == "no answer within 0.3 s"


def test_a_receiver_that_is_away_or_hangs_up_is_no_error_of_ours() -> None:
    with serve(lambda request: Reply(hangs_up=True)) as server:
        host = f"127.0.0.1:{server.port}"
        outcome = post(f"http://{host}/", (host,))
    assert "connection failed" in (outcome.error or "")
    assert "connection failed" in (post(f"http://{host}/", (host,)).error or "")


def test_an_answer_of_any_size_is_left_unread() -> None:
    with serve(lambda request: Reply(b"x" * 4_000_000)) as server:
        host = f"127.0.0.1:{server.port}"
        assert post(f"http://{host}/", (host,)).is_delivered


def test_certificates_are_checked() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with serve(lambda request: Reply(b""), context) as server:
        host = f"127.0.0.1:{server.port}"
        outcome = post(f"https://{host}/", (host,))
    assert "ConnectError" in (outcome.error or "")
