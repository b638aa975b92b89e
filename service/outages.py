"""What is away at present, so that an outage is logged when it begins and when it ends."""

from __future__ import annotations

from threading import Lock


class OutageRecord:
    """The parts of one process that do not work at present; its methods may run in any thread."""

    def __init__(self) -> None:
        self._failures: dict[str, int] = {}
        """Part → its failures since it last worked; parts that work are absent."""
        self._lock = Lock()

    def note_failure(self, name: str) -> bool:
        """Record that a part does not work; return whether it worked before."""
        with self._lock:
            self._failures[name] = self._failures.get(name, 0) + 1
            return self._failures[name] == 1

    def note_success(self, name: str) -> int:
        """Record that a part works; return how often it failed before, 0 if it worked."""
        with self._lock:
            return self._failures.pop(name, 0)
