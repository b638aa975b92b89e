"""Figures from the database as Prometheus metrics, queried at most every few seconds."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from excise.names import PoolStatus
from service.broker import Broker
from service.database import Database
from service.metrics.figures import Figures, load_figures

logger = logging.getLogger(__name__)

FRESH_SECONDS = 10.0
"""Largest age of the figures that a scrape gets; every process queries its own. Chosen by hand."""


class DatabaseCollector(Collector):
    """Collects figures from database and broker; they are the same in every process of a service.

    So take the maximum over processes, not the sum. While the database is unreachable, its
    figures are missing and `excise_database_up` is 0.
    """

    def __init__(self, database: Database, broker: Broker, silent_seconds: float) -> None:
        self._database = database
        self._broker = broker
        self._silent_seconds = silent_seconds
        self._lock = threading.Lock()
        self._metrics: list[Metric] = []
        self._asked_at: float | None = None

    def collect(self) -> Iterator[Metric]:
        """Yield the figures, cached if they were queried a moment ago."""
        with self._lock:
            now = time.monotonic()
            if self._asked_at is None or now - self._asked_at > FRESH_SECONDS:
                self._metrics = [*self._ask_database(), *self._ask_broker()]
                self._asked_at = time.monotonic()
            metrics = self._metrics
        yield from metrics

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering does not query the database."""
        return []

    def _ask_database(self) -> list[Metric]:
        """Return the database's figures, or only that it is down."""
        try:
            with self._database.transaction() as session:
                figures = load_figures(session, self._silent_seconds)
        except SQLAlchemyError as error:
            logger.warning("no figures from the database: %s", type(error).__name__)
            return [_build_up("database", is_up=False)]
        return list(build_database_metrics(figures))

    def _ask_broker(self) -> list[Metric]:
        """Return the number of messages that wait at the broker, or only that it is down."""
        try:
            return list(build_broker_metrics(self._broker.count_messages()))
        except RedisError as error:
            logger.warning("no figures from the broker: %s", type(error).__name__)
            return [_build_up("broker", is_up=False)]


def build_broker_metrics(messages: int) -> Iterator[Metric]:
    """Yield the metrics of a broker that answered."""
    yield _build_up("broker", is_up=True)
    yield GaugeMetricFamily(
        "excise_broker_messages", "Messages at the broker that no worker has taken yet.", messages
    )


def build_database_metrics(figures: Figures) -> Iterator[Metric]:
    """Yield every figure of a database that answered, as a metric."""
    yield _build_up("database", is_up=True)
    jobs = GaugeMetricFamily(
        "excise_jobs",
        "Jobs; open ones by how long they have been queued or running.",
        labels=["kind", "status", "age"],
    )
    for job in figures.jobs:
        jobs.add_metric([job.kind, job.status, job.age], job.count)
    yield jobs
    depth = GaugeMetricFamily("excise_queue_depth", "Rows that wait for a worker.", labels=["work"])
    oldest = GaugeMetricFamily(
        "excise_queue_oldest_seconds", "How long the oldest of them has waited.", labels=["work"]
    )
    for queue in figures.queues:
        depth.add_metric([queue.work], queue.waiting)
        oldest.add_metric([queue.work], queue.oldest_seconds)
    yield from (depth, oldest)
    yield GaugeMetricFamily(
        "excise_outbox_unsent", "Messages that the relay has not sent yet.", figures.outbox_unsent
    )
    yield GaugeMetricFamily(
        "excise_outbox_lag_seconds",
        "How long the oldest unsent message has waited.",
        figures.outbox_lag_seconds,
    )
    yield _build_labelled("excise_workers", "Workers of the last day.", "state", figures.workers)
    yield _build_labelled("excise_versions", "Published versions.", "status", figures.versions)
    up = {name: int(status == PoolStatus.UP) for name, status in figures.pools.items()}
    yield _build_labelled(
        "excise_pool_up", "Whether a pool's server answers as it should.", "pool", up
    )
    yield _build_labelled(
        "excise_artifact_bytes",
        "Bytes of jobs' files, of the largest tenants and of all others.",
        "tenant",
        figures.artifact_bytes,
    )


def _build_labelled(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    """Return a gauge with one label."""
    metric = GaugeMetricFamily(name, text, labels=[label])
    for value, count in values.items():
        metric.add_metric([value], count)
    return metric


def _build_up(part: str, *, is_up: bool) -> Metric:
    """Return the gauge that says whether a part of the service answered."""
    return GaugeMetricFamily(f"excise_{part}_up", f"Whether the {part} answered.", int(is_up))
