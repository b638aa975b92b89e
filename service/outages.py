"""What is away at present, so that an outage is logged when it begins and when it ends."""

from __future__ import annotations

from threading import Lock


class OutageRecord:
    """The parts of one process that do not work at present; its methods may run in any thread."""

    def __init__(self) -> None:
        self._failing: set[str] = set()
        self._lock = Lock()

    def note_failure(self, name: str) -> bool:
        """Record that a part does not work; return whether it worked before."""
        with self._lock:
            is_new = name not in self._failing
            self._failing.add(name)
            return is_new

    def note_success(self, name: str) -> bool:
        """Record that a part works; return whether it did not before."""
        with self._lock:
            was_failing = name in self._failing
            self._failing.discard(name)
            return was_failing
