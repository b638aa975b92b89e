"""A broker behind TLS, reached by the URL in deploy/README.md."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from urllib.parse import urlsplit

import pytest
import redis

from service.broker import Broker
from service.embedded.valkey import find_free_port
from service.models import new_id
from service.outbox import JOB_TASK
from workers.running.worker import _build_app

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate, with its key beside it."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=valkey", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(folder / "key.pem"), "-out", str(folder / "ca.crt")),
        ],
        check=True,
        capture_output=True,
    )
    return folder / "ca.crt"


@pytest.fixture(scope="module")
def tls_port(certificate: Path, broker_url: str) -> Iterator[int]:
    """A port on which Valkey speaks TLS, through a small proxy, as the embedded one cannot."""
    port, place = find_free_port(), urlsplit(broker_url)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    stopping, started = asyncio.Event(), Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
        finally:
            writer.transport.abort()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection(place.hostname, place.port)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(forward(reader, outer), forward(inner, writer))

    async def serve() -> None:
        server = await asyncio.start_server(accept, "127.0.0.1", port, ssl=context)
        loops.append(asyncio.get_running_loop())
        started.set()
        await stopping.wait()
        server.close()

    thread = Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(10)
    yield port
    loops[0].call_soon_threadsafe(stopping.set)
    thread.join(10)


def build_url(port: int, certificate: Path) -> str:
    """Return the URL from the chart's README, with our host, port and file."""
    readme = (ROOT / "deploy" / "helm" / "excise" / "README.md").read_text()
    query = "?ssl_cert_reqs=required&ssl_ca_certs="
    assert (
        f"rediss://:PASSWORD@valkey.example.org:6379/0{query}/etc/excise/certificates/ca.crt"
        in readme
    )
    return f"rediss://127.0.0.1:{port}/0{query}{certificate}"


def test_api_and_worker_reach_a_broker_behind_tls(tls_port: int, certificate: Path) -> None:
    url = build_url(tls_port, certificate)
    broker, app = Broker(url), _build_app(url)
    try:
        broker.ping()
        with broker.publisher() as publish:
            publish(JOB_TASK, new_id("job"))
        with app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=1, timeout=10)
            queue = connection.SimpleQueue("celery")
            message = queue.get(timeout=20)
            assert message.headers["task"] == JOB_TASK
            message.ack()
            queue.close()
    finally:
        broker.close()
        app.close()


def test_an_untrusted_certificate_is_rejected(tls_port: int) -> None:
    broker = Broker(f"rediss://127.0.0.1:{tls_port}/0?ssl_cert_reqs=required")
    with pytest.raises(redis.ConnectionError, match=r"certificate|CERTIFICATE"):
        broker.ping()
    broker.close()
