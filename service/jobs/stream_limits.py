"""Limits on open event streams in this process: per key, per tenant, and in all."""

from __future__ import annotations

import threading
from collections import Counter

from service.errors import TooManyStreamsError
from service.keys.operations import Identity


class StreamLimits:
    """Counts open streams. `take` and `give` may be called from any thread."""

    def __init__(self, in_all: int, of_key: int) -> None:
        self._in_all = in_all
        self._of_key = of_key
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, identity: Identity, of_tenant: int) -> None:
        """Count one more stream; `of_tenant` is the tenant's limit.

        Raises `TooManyStreamsError`, and counts nothing, if a limit is reached.
        """
        limits = (self._in_all, of_tenant, self._of_key)
        with self._lock:
            for name, limit, who in zip(_name(identity), limits, _OWNERS, strict=True):
                if self._open[name] >= limit:
                    raise TooManyStreamsError(
                        f"{who} has {limit} event streams open, which is the limit. Close one, or "
                        "ask for pages of events without stream=true."
                    )
            self._open.update(_name(identity))

    def give(self, identity: Identity) -> None:
        """Count one stream less, and forget owners without streams."""
        with self._lock:
            self._open.subtract(_name(identity))
            for name in _name(identity):
                if not self._open[name]:
                    del self._open[name]


_OWNERS = ("This process of the service", "This tenant", "This API key")


def _name(identity: Identity) -> tuple[str, str, str]:
    """Return the owners for whom a stream counts."""
    return "", identity.tenant_id, identity.key_id
