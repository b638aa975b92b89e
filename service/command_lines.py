"""The command lines of Excise's own processes, the same wherever they run."""

from __future__ import annotations

import os
import sys

HEAD_BYTES = 65_536
"""Largest size of a request's line and headers together."""

HEADER_LIMITS = (
    *("--http", "service.connections:PunctualProtocol"),
    *("--h11-max-incomplete-event-size", str(HEAD_BYTES)),
)
"""Options of uvicorn: a request's line and headers together, in seconds and in bytes; of its own
protocols httptools knows no limit, and none knows a deadline."""

NOBODY = "none"
"""An address that no client has: unless it is told of a proxy, an API believes nobody's
X-Forwarded-For. uvicorn's own default is to believe whoever connects from the same machine."""


def build_api_arguments(host: str, port: int, *, grace_seconds: int) -> list[str]:
    """Return the arguments of an API process; on stop, open requests have `grace_seconds`."""
    return _python_module(
        *("uvicorn", "service.app:create_app", "--factory", "--host", host),
        *("--port", str(port), "--log-level", "warning", "--no-access-log"),
        *("--timeout-graceful-shutdown", str(grace_seconds)),
        *("--forwarded-allow-ips", os.environ.get("FORWARDED_ALLOW_IPS", NOBODY)),
        *HEADER_LIMITS,
    )


def build_worker_arguments(name: str) -> list[str]:
    """Return the arguments of a worker with this name, which must be unique on its host."""
    return _python_module(
        *("celery", "--quiet", "-A", "workers.app", "worker", "--pool", "solo"),
        *("--loglevel", "WARNING", "--without-gossip", "--without-mingle"),
        *("-n", f"{name}@%h"),
    )


def _python_module(module: str, *arguments: str) -> list[str]:
    """Return arguments that run an installed module, never one from the current folder."""
    return [sys.executable, "-P", "-m", module, *arguments]
