"""Prometheus counters of a worker and its children; see `service.metrics.counters`."""

from __future__ import annotations

import sys
from typing import Literal

from prometheus_client import Counter, Gauge, Histogram

from service.metrics.counters import REGISTRY

Ending = Literal["finished", "given_back", "lost", "cancelled"]
"""How an attempt ended: by itself; given back for another worker to continue; with its lease lost
to another worker; by force, because it did not stop when asked to."""

STAGE_BUCKETS = (1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 43_200.0)

ATTEMPTS = Counter(
    "excise_attempts", "Attempts, by how they ended.", ["work", "ending"], registry=REGISTRY
)
LEASE_LOSSES = Counter(
    "excise_lease_losses",
    "Attempts that lost their lease to another worker.",
    ["work"],
    registry=REGISTRY,
)
STAGE_SECONDS = Histogram(
    "excise_stage_seconds",
    "Duration of stages that were computed here, not reused from an earlier attempt.",
    ["kind", "stage"],
    buckets=STAGE_BUCKETS,
    registry=REGISTRY,
)
GENERATED_TOKENS = Counter(
    "excise_generated_tokens", "Tokens that models generated.", registry=REGISTRY
)
GENERATION_SECONDS = Counter(
    "excise_generation_seconds", "Time that took, in seconds.", registry=REGISTRY
)
DEVICE_MEMORY = Gauge(
    "excise_device_memory_bytes",
    "Memory of a GPU that a job runs on: used by anybody, and total.",
    ["device", "state"],
    registry=REGISTRY,
)


def count_generation(tokens: int, seconds: float) -> None:
    """Count a finished batch of responses."""
    GENERATED_TOKENS.inc(tokens)
    GENERATION_SECONDS.inc(seconds)


def measure_devices() -> None:
    """Record the memory of the GPUs, if this process uses any; does not load torch for this."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        DEVICE_MEMORY.labels(str(index), "used").set(total - free)
        DEVICE_MEMORY.labels(str(index), "total").set(total)
