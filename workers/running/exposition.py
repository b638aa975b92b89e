"""A worker's metrics: its own counts and its children's, and the machine's memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import psutil
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.metrics.counters import REGISTRY
from workers.running.reporting import ChildReports, add_up

logger = logging.getLogger(__name__)


class WorkerCollector(Collector):
    """Collects all metrics of a worker for Prometheus, each metric once."""

    def __init__(self, reports: ChildReports) -> None:
        self._reports = reports

    def collect(self) -> Iterator[Metric]:
        """Yield the counts of the worker and its children, and the current memory use."""
        yield from add_up([*REGISTRY.collect(), *self._reports.collect()])
        yield _measure_host()
        yield _measure_processes()

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering measures nothing."""
        return []


def serve_metrics(address: str, reports: ChildReports) -> None:
    """Serve metrics at `host:port` in a thread.

    If the address is taken, that is logged and the worker runs without metrics.
    """
    host, _, port = address.rpartition(":")
    registry = CollectorRegistry()
    registry.register(WorkerCollector(reports))
    try:
        start_http_server(int(port), host.strip("[]"), registry)
    except OSError as error:
        logger.error("no metrics at %s: %s", address, error.strerror)
    else:
        logger.info("metrics are at %s", address)


def _measure_host() -> Metric:
    """Return the memory use of the machine."""
    memory = psutil.virtual_memory()
    metric = GaugeMetricFamily(
        "excise_host_memory_bytes", "Memory of the worker's machine.", labels=["state"]
    )
    metric.add_metric(["available"], memory.available)
    metric.add_metric(["total"], memory.total)
    return metric


def _measure_processes() -> Metric:
    """Return the memory use of the worker and of the child that does its work."""
    metric = GaugeMetricFamily(
        "excise_worker_memory_bytes",
        "Resident memory of the worker itself and of its children.",
        labels=["process"],
    )
    own = psutil.Process()
    metric.add_metric(["worker"], own.memory_info().rss)
    metric.add_metric(["children"], sum(map(_measure, own.children(recursive=True))))
    return metric


def _measure(process: psutil.Process) -> int:
    """Return the resident bytes of a process, or 0 if it has ended."""
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
