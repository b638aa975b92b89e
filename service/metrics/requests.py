"""How long requests wait for their answers, by route."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics.counters import HTTP_SECONDS

UNROUTED = "none"
"""The route of requests that were refused before one was found, or for which there is none."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestMetrics:
    """Observes every request; the label is the route's template, so there are few."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and note when its answer began."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()

        async def send_and_observe(message: Message) -> None:
            if message["type"] == "http.response.start":
                seconds = time.perf_counter() - started
                route = getattr(scope.get("route"), "path_format", UNROUTED)
                method = scope["method"] if scope["method"] in _METHODS else "other"
                status = f"{message['status'] // 100}xx"
                HTTP_SECONDS.labels(method, route, status).observe(seconds)
            await send(message)

        await self._app(scope, receive, send_and_observe)
