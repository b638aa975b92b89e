"""A child's counts, sent to its parent, so that they survive the child however it ends."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from service.metrics.counters import REGISTRY
from workers.running.measures import measure_devices

logger = logging.getLogger(__name__)

REPORT_SECONDS = 2.0
"""Pause between two reports, in seconds; a killed child loses the counts since its last report.
Chosen by hand.
"""
_LAST_REPORT_SECONDS = 5.0
"""Seconds to wait for the end of the pipe, which processes started by the child may keep open.
Chosen by hand.
"""
_ADDED_UP = frozenset({"counter", "histogram"})


@contextmanager
def reporting(parent: Connection) -> Iterator[None]:
    """Report this process's counts to the parent within the context, and a last time at its end."""
    over = threading.Event()

    def loop() -> None:
        while not over.wait(REPORT_SECONDS):
            _report(parent)

    thread = threading.Thread(target=loop, name="excise-reporting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        _report(parent)
        parent.close()


def _report(parent: Connection) -> None:
    """Send all counts, unless the parent has ended."""
    measure_devices()
    with contextlib.suppress(OSError):
        parent.send(list(REGISTRY.collect()))


class ChildReports:
    """The counts of all children of a worker: those that have ended, and the running one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ended: list[Metric] = []
        self._running: list[Metric] = []

    @contextmanager
    def listening(self, child: Connection) -> Iterator[None]:
        """Receive a child's reports within the context; its counts are kept afterwards.

        The pipe's writing end must be open in the child only, and the child must have ended before
        the context does.
        """
        thread = threading.Thread(
            target=self._listen, args=(child,), name="excise-reports", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            thread.join(_LAST_REPORT_SECONDS)
            child.close()
            with self._lock:
                kept = [metric for metric in self._running if metric.type in _ADDED_UP]
                self._ended, self._running = add_up([*self._ended, *kept]), []

    def collect(self) -> list[Metric]:
        """Return the counts of all children, both ended and running."""
        with self._lock:
            return add_up([*self._ended, *self._running])

    def _listen(self, child: Connection) -> None:
        """Keep the newest report until the child has ended."""
        while True:
            try:
                report: list[Metric] = child.recv()
            except (EOFError, OSError):
                return
            except Exception:  # cut off by the child's death
                logger.warning("a child's last report cannot be read", exc_info=True)
                return
            with self._lock:
                self._running = report


def add_up(metrics: Iterable[Metric]) -> list[Metric]:
    """Return each metric once, with samples of equal labels summed."""
    totals: dict[str, tuple[Metric, dict[tuple[str, tuple[tuple[str, str], ...]], float]]] = {}
    for metric in metrics:
        _, values = totals.setdefault(metric.name, (metric, {}))
        for sample in metric.samples:
            if not sample.name.endswith("_created"):  # timestamps, which cannot be summed
                key = (sample.name, tuple(sample.labels.items()))
                values[key] = values.get(key, 0.0) + sample.value
    return [_rebuild(metric, values) for metric, values in totals.values()]


def _rebuild(
    metric: Metric, values: dict[tuple[str, tuple[tuple[str, str], ...]], float]
) -> Metric:
    """Return the metric with these values as its samples."""
    rebuilt = Metric(metric.name, metric.documentation, metric.type)
    rebuilt.samples = [
        Sample(name, dict(labels), value) for (name, labels), value in values.items()
    ]
    return rebuilt
