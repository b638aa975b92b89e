"""Probes for container engines and Kubernetes: whether a process is ready, and may be stopped.

Run as `python -m service.probes api|live|worker|drain`; exit status 0 means yes. `api` and `live`
print what is wrong. It has few imports, because it runs very often.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

import psycopg

_ANSWER_SECONDS = 4
_SILENT_SECONDS = 60
"""A worker whose heartbeat is older is not ready; as `Settings.worker_silent_seconds`."""
_LOOK_SECONDS = 1.0

_STAGE = """
    SELECT worker.busy_job_id, stage.name
    FROM workers worker
    LEFT JOIN stages stage ON stage.job_id = worker.busy_job_id AND stage.status = 'running'
    WHERE worker.hostname = %s AND worker.busy_job_id IS NOT NULL
      AND worker.heartbeat_at > clock_timestamp() - make_interval(secs => %s)
    ORDER BY worker.heartbeat_at DESC LIMIT 1
"""
_BEATS = """
    SELECT 1 FROM workers
    WHERE hostname = %s AND heartbeat_at > clock_timestamp() - make_interval(secs => %s) LIMIT 1
"""


def find_faults(path: str, port: int) -> list[str]:
    """Return what is wrong with the API on this host, asked without a proxy; empty if nothing is.

    For `/readyz`, these are the failed parts, in its own words.
    """
    url = f"http://127.0.0.1:{port}{path}"
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=_ANSWER_SECONDS):
            return []
    except HTTPError as error:
        with error:
            return _name_failed_checks(error.read()) or [f"{url} answered with {error.code}"]
    except (URLError, OSError) as error:
        return [f"{url} does not answer: {getattr(error, 'reason', error)}"]


def beats(database_url: str, hostname: str) -> bool:
    """Return whether a worker on this host has a recent heartbeat, according to the database."""
    try:
        return _ask(database_url, _BEATS, hostname) is not None
    except psycopg.Error:
        return False


def find_stage(database_url: str, hostname: str) -> tuple[str, str | None] | None:
    """Return the job and the stage that this host's worker is working on; None if it is idle."""
    row = _ask(database_url, _STAGE, hostname)
    return None if row is None else (str(row[0]), None if row[1] is None else str(row[1]))


def drain(
    database_url: str,
    hostname: str,
    seconds: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait for the end of the stage that this host's worker is in; return whether it ended.

    A worker that is stopped then loses almost no work. If the database does not answer, it does
    not wait.
    """
    deadline = time.monotonic() + seconds
    try:
        first = find_stage(database_url, hostname)
        while first is not None and find_stage(database_url, hostname) == first:
            if time.monotonic() > deadline:
                return False
            sleep(_LOOK_SECONDS)
    except psycopg.Error:
        return False
    return True


def main(arguments: list[str]) -> int:
    """Run one probe and return its exit status."""
    url, hostname = os.environ.get("EXCISE_DATABASE_URL", ""), socket.gethostname()
    match arguments:
        case ["api", port]:
            return _report(find_faults("/readyz", int(port)))
        case ["live", port]:
            return _report(find_faults("/healthz", int(port)))
        case ["worker"]:
            return int(not beats(url, hostname))
        case ["drain", seconds]:
            return int(not drain(url, hostname, float(seconds)))
    print("usage: python -m service.probes api PORT | live PORT | worker | drain SECONDS")
    return 2


def _report(faults: list[str]) -> int:
    """Print each fault on a line of its own; return the exit status."""
    for fault in faults:
        print(fault)
    return int(bool(faults))


def _name_failed_checks(body: bytes) -> list[str]:
    """Return `part: detail` of the checks that failed; nothing if the body is not `/readyz`'s."""
    try:
        checks = json.loads(body)["checks"]
        return [f"{name}: {check['detail']}" for name, check in checks.items() if not check["ok"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _ask(database_url: str, statement: str, hostname: str) -> tuple[object, ...] | None:
    """Return the first row of a query about this host's worker."""
    scheme, separator, rest = database_url.partition("://")
    plain = f"{scheme.partition('+')[0]}{separator}{rest}"
    with psycopg.connect(plain, connect_timeout=_ANSWER_SECONDS) as connection:
        return connection.execute(statement, (hostname, _SILENT_SECONDS)).fetchone()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
