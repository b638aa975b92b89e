"""The actor and source of a change: set where a request arrives, read where it is recorded."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from excise.logs import get_log_fields


@dataclass(frozen=True)
class Origin:
    """Who makes a change, and from where."""

    actor: str
    """A key's id, `operator <user>@<host>`, or `service`."""
    source: str | None = None
    """The address a request came from."""


_SERVICE = Origin("service")
_current: ContextVar[Origin] = ContextVar("excise_origin", default=_SERVICE)


def get_origin() -> Origin:
    """Return the origin set for this task or thread; the service itself by default."""
    return _current.get()


@contextmanager
def as_operator() -> Iterator[None]:
    """Attribute changes within the context to the person at this command line."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # an id without a name, as in many containers
        user = "unknown"
    token = _current.set(Origin(f"operator {user}@{socket.gethostname()}"))
    try:
        yield
    finally:
        _current.reset(token)


def set_origin(origin: Origin) -> None:
    """Set the origin of changes in this task from now on."""
    _current.set(origin)


def get_request_id() -> str | None:
    """Return the id of the current request, as in the logs."""
    return get_log_fields().get("request_id")


def get_trace_id() -> str | None:
    """Return the id of the current trace, as in the logs."""
    return get_log_fields().get("trace_id")
