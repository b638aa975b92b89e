"""What the gateway counts, by version, for Prometheus.

Labels are version ids and base models; tenants and aliases are not among them.
"""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram

Outcome = Literal["ok", "refused", "unavailable", "broken", "left"]
"""`refused`: the request was at fault; `unavailable`: nothing was streamed; `broken`: the answer
ended early; `left`: the client went away, or read nothing for too long."""

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class GatewayMetrics:
    """Counters and histograms of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "excise_gateway_requests",
            "Requests, by the version that was to answer and how they ended.",
            ["version", "outcome"],
            registry=self.registry,
        )
        self._retries = Counter(
            "excise_gateway_retries",
            "Requests sent a second time because the first brought nothing.",
            ["version"],
            registry=self.registry,
        )
        self._first = Histogram(
            "excise_gateway_first_byte_seconds",
            "Time until the first byte of the answer.",
            ["version"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._whole = Histogram(
            "excise_gateway_seconds",
            "Time until the answer's end.",
            ["version"],
            buckets=_BUCKETS,
            registry=self.registry,
        )

    def count(self, version: str, outcome: Outcome) -> None:
        """Count a request that has ended."""
        self._requests.labels(version, outcome).inc()

    def count_retry(self, version: str) -> None:
        """Count a request that is sent again."""
        self._retries.labels(version).inc()

    def observe_first(self, version: str, seconds: float) -> None:
        """Record that an answer has begun."""
        self._first.labels(version).observe(seconds)

    def observe_whole(self, version: str, seconds: float) -> None:
        """Record that an answer is complete."""
        self._whole.labels(version).observe(seconds)
