"""All metrics of a process in Prometheus's text format."""

from __future__ import annotations

import os
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Set by whoever runs several processes behind one port. prometheus-client then counts in files in
this folder, and whichever process is asked answers for all of them."""


class Exposition:
    """The counts of this process, or of all that share its port, and the queried figures."""

    def __init__(self, counted: Sequence[CollectorRegistry], asked: Sequence[Collector]) -> None:
        self._counted = tuple(counted)
        self._asked = CollectorRegistry()
        for collector in asked:
            self._asked.register(collector)

    def render(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        counted = self._counted
        if os.environ.get(FOLDER_VARIABLE):
            shared = CollectorRegistry()
            MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
            counted = (shared,)
        return b"".join(map(generate_latest, (*counted, self._asked)))
