"""A real HTTP server on this machine that answers as told."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Reply:
    """What the server answers."""

    body: bytes = b"{}"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hangs_up: bool = False
    """Close the connection without an answer."""


@dataclass(frozen=True)
class Request:
    """What the server was asked."""

    path: str
    headers: Message
    body: bytes
    method: str = "POST"


@dataclass(frozen=True)
class Server:
    """A running server."""

    port: int
    requests: list[Request]


@contextmanager
def serve(
    answer: Callable[[Request], Reply], tls: ssl.SSLContext | None = None
) -> Iterator[Server]:
    """Serve on 127.0.0.1 within the context; every request is answered by `answer`."""
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = self.rfile.read(length)
            request = Request(self.path, self.headers, body, self.command)
            requests.append(request)
            reply = answer(request)
            if reply.hangs_up:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_PATCH = do_PUT = do_POST

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Server(server.server_port, requests)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
