"""Posts to a real server on this machine."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from excise.outgoing import posts
from excise.outgoing.endpoints import Destination, Endpoint
from excise.outgoing.posts import ATTEMPTS, Clock, Credentials, Poster, PostError, SecretUse
from tests.unit.excise.outgoing.servers import Reply, Server, serve

SECRET = "top-secret-4711"


class Script:
    """Replies one after another, the last one for ever."""

    def __init__(self) -> None:
        self.replies = [Reply()]

    def __call__(self, request: object) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


class Rests:
    """A clock that does not wait, and remembers for how long it should have."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.clock = Clock(now=lambda: 1_000.9, sleep=self.seconds.append, jitter=lambda: 0.0)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def server(script: Script) -> Iterator[Server]:
    with serve(script) as running:
        yield running


@pytest.fixture
def rests() -> Rests:
    return Rests()


def poster(server: Server, rests: Rests, credentials: Credentials | None = None) -> Poster:
    endpoint = Endpoint("http", "scorer.example", server.port, "/v1/score")
    timeout = httpx.Timeout(5.0)
    return Poster(Destination(endpoint, "127.0.0.1"), credentials, rests.clock, timeout)


def test_the_checked_address_is_called_under_the_hosts_name(server: Server, rests: Rests) -> None:
    with poster(server, rests) as opened:
        assert opened.post(b'{"x":1}') == b"{}"
    (request,) = server.requests
    assert (request.path, request.body) == ("/v1/score", b'{"x":1}')
    assert request.headers["Host"] == f"scorer.example:{server.port}"
    assert request.headers["Content-Type"] == "application/json"
    assert request.headers["Authorization"] is None


def test_proxies_of_the_environment_are_passed_by(server, rests, monkeypatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with poster(server, rests) as opened:
        assert opened.post(b"1") == b"{}"


def test_a_bearer_secret_is_sent(server: Server, rests: Rests) -> None:
    with poster(server, rests, Credentials(SECRET)) as opened:
        opened.post(b"1")
    assert server.requests[0].headers["Authorization"] == f"Bearer {SECRET}"


def test_an_hmac_secret_signs_and_stays_here(server: Server, rests: Rests) -> None:
    with poster(server, rests, Credentials(SECRET, SecretUse.HMAC)) as opened:
        opened.post(b"body")
    headers = server.requests[0].headers
    digest = hmac.new(SECRET.encode(), b"1000.body", hashlib.sha256).hexdigest()
    assert headers["X-Excise-Signature"] == f"t=1000,v1={digest}"
    assert SECRET not in str(headers)


@pytest.mark.parametrize("secret", ["", " ", "a\r\nb", "é"])
def test_secrets_that_no_header_can_hold(secret: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII"):
        Credentials(secret)


def test_a_secret_does_not_show() -> None:
    assert SECRET not in repr(Credentials(SECRET))


@pytest.mark.parametrize("failure", [Reply(status=503), Reply(status=429), Reply(hangs_up=True)])
def test_passing_failures_are_tried_again(failure, script, server, rests) -> None:
    script.replies = [failure, failure, Reply(b"at last")]
    with poster(server, rests) as opened:
        assert opened.post(b"1") == b"at last"
    assert len(server.requests) == 3
    assert rests.seconds == [0.5, 1.0]


def test_tries_come_to_an_end(script: Script, server: Server, rests: Rests) -> None:
    script.replies = [Reply(status=500)]
    with (
        poster(server, rests, Credentials(SECRET)) as opened,
        pytest.raises(PostError, match=r"scorer\.example answered 500, 4 times in a row") as raised,
    ):
        opened.post(b"1")
    assert len(server.requests) == ATTEMPTS
    assert rests.seconds == [0.5, 1.0, 2.0]
    assert SECRET not in str(raised.value)


def test_time_outs_are_tried_again(script: Script, server: Server, rests: Rests) -> None:
    script.replies = [Reply(b"", headers={"Content-Length": "10"}), Reply(b"whole")]
    endpoint = Endpoint("http", "scorer.example", server.port, "/")
    destination = Destination(endpoint, "127.0.0.1")
    with Poster(destination, None, rests.clock, httpx.Timeout(0.2)) as opened:
        assert opened.post(b"1") == b"whole"


@pytest.mark.parametrize("status", [204, 400, 401, 404, 413, 501])
def test_lasting_failures_are_not(status: int, script: Script, server, rests) -> None:
    script.replies = [Reply(b"", status=status)]
    with poster(server, rests) as opened, pytest.raises(PostError, match=f"answered {status} inst"):
        opened.post(b"1")
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(status: int, script: Script, server, rests) -> None:
    location = f"http://127.0.0.1:{server.port}/elsewhere"
    script.replies = [Reply(status=status, headers={"Location": location})]
    with poster(server, rests) as opened, pytest.raises(PostError, match="a redirect"):
        opened.post(b"1")
    assert [request.path for request in server.requests] == ["/v1/score"]


def test_large_answers_are_cut_off(script: Script, server, rests, monkeypatch) -> None:
    monkeypatch.setattr(posts, "MAX_ANSWER_BYTES", 1000)
    script.replies = [Reply(b"x" * 1000), Reply(b"x" * 1001)]
    with poster(server, rests) as opened:
        assert len(opened.post(b"1")) == 1000
        with pytest.raises(PostError, match="more than 1,000 bytes"):
            opened.post(b"1")
    assert len(server.requests) == 2


@pytest.mark.parametrize("part", ["headers", "body"])
def test_an_answer_that_trickles_is_given_up(
    part: str, rests: Rests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No single wait is long; together they are over the limit."""
    monkeypatch.setattr(posts, "MAX_SECONDS_PER_ATTEMPT", 0.3)
    start = b"HTTP/1.1 200 OK\r\n"
    begun = start if part == "headers" else start + b"Content-Length: 1000000\r\n\r\n"
    with trickle(begun) as port:
        endpoint = Endpoint("http", "scorer.example", port, "/")
        destination = Destination(endpoint, "127.0.0.1")
        opened = Poster(destination, None, rests.clock, httpx.Timeout(30.0))
        with opened, pytest.raises(PostError, match=r"took over 0\.3 s, 4 times"):
            opened.post(b"1")


@contextmanager
def trickle(begun: bytes) -> Iterator[int]:
    """The port of a server that begins to answer and then says a letter every now and then."""
    listener = socket.create_server(("127.0.0.1", 0))
    is_over = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(begun)
            while not is_over.wait(0.02):
                connection.sendall(b"a")

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        is_over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_a_packed_answer_is_not_unpacked(coding: str, script: Script, server, rests) -> None:
    script.replies = [Reply(gzip.compress(b"0" * 10**6), headers={"Content-Encoding": coding})]
    with poster(server, rests) as opened, pytest.raises(PostError, match=coding):
        opened.post(b"1")
    assert len(server.requests) == 1


def test_nothing_listens(rests: Rests) -> None:
    with serve(lambda request: Reply()) as gone:
        pass
    with poster(gone, rests) as opened, pytest.raises(PostError, match="ConnectError, 4 times"):
        opened.post(b"1")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A file with a key and a self-signed certificate for scorer.example."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make a certificate")
    key, crt, both = (tmp_path / name for name in ("key.pem", "crt.pem", "both.pem"))
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=scorer.example", "-addext", "subjectAltName=DNS:scorer.example"),
            *("-keyout", key, "-out", crt),
        ],
        check=True,
        capture_output=True,
    )
    both.write_bytes(key.read_bytes() + crt.read_bytes())
    return both


@pytest.mark.parametrize("host", ["scorer.example", "other.example"])
def test_the_certificate_is_checked_for_the_name(host: str, certificate: Path, rests) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    trust = ssl.create_default_context(cafile=str(certificate))
    with serve(lambda request: Reply(b"over TLS"), tls) as server:
        destination = Destination(Endpoint("https", host, server.port, "/"), "127.0.0.1")
        with Poster(destination, None, rests.clock, trust=trust) as opened:
            if host == "scorer.example":
                assert opened.post(b"1") == b"over TLS"
            else:
                with pytest.raises(PostError, match="ConnectError"):
                    opened.post(b"1")


def test_an_unknown_certificate_is_refused(certificate: Path, rests: Rests) -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    with serve(lambda request: Reply(), tls) as server:
        endpoint = Endpoint("https", "scorer.example", server.port, "/")
        opened = Poster(Destination(endpoint, "127.0.0.1"), None, rests.clock)
        with opened, pytest.raises(PostError, match="ConnectError"):
            opened.post(b"1")
