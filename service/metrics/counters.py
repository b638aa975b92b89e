"""Counters of this process; every metric has few label values, known in advance.

Labels are kinds, stages, routes, pools and the like, never a tenant, a job or user text. The
gateway's own metrics are in `service.gateway.metrics`, the workers' in `workers.running.measures`.
"""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram

REGISTRY = CollectorRegistry()
"""Registry of all counters of this process."""

ReconcilerAction = Literal["load", "unload", "live", "reject", "retry", "suspend", "move"]

HTTP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

HTTP_SECONDS = Histogram(
    "excise_http_seconds",
    "Time until the API began to answer, by route and class of status.",
    ["method", "route", "status"],
    buckets=HTTP_BUCKETS,
    registry=REGISTRY,
)
OUTBOX_SENT = Counter("excise_outbox_sent", "Messages sent to the broker.", registry=REGISTRY)
OUTBOX_RESENT = Counter(
    "excise_outbox_resent",
    "Messages written again for work that nobody had taken in time.",
    ["work"],
    registry=REGISTRY,
)
RELAY_FAILURES = Counter(
    "excise_relay_failures", "Rounds of the relay that failed.", ["thread"], registry=REGISTRY
)
LEASES_EXPIRED = Counter(
    "excise_leases_expired",
    "Leases taken from workers that stopped responding.",
    ["work"],
    registry=REGISTRY,
)
RECONCILER_ACTIONS = Counter(
    "excise_reconciler_actions",
    "Actions of the reconciler to repair a pool.",
    ["pool", "action"],
    registry=REGISTRY,
)
RECONCILER_FAILURES = Counter(
    "excise_reconciler_failures",
    "The reconciler's checks of a pool that failed.",
    ["pool"],
    registry=REGISTRY,
)
CANARIES = Counter(
    "excise_canaries",
    "Canaries run on a pool's server, by outcome: passed or failed.",
    ["pool", "outcome"],
    registry=REGISTRY,
)
