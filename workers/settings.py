"""The worker's settings: the service's, and what only workers need."""

from __future__ import annotations

from pydantic import Field

from service.serving.canary import Dtype
from service.settings import Settings


class WorkerSettings(Settings):
    """Read from `EXCISE_<NAME>` like the service's; database, broker and artifacts are shared."""

    device: str = "auto"
    """Where models run: `cpu`, `cuda`, `cuda:1`, or `auto` for a GPU when there is one."""
    heartbeat_seconds: float = Field(default=5.0, gt=0)
    """Pause between two heartbeats of the worker and two renewals of its lease."""
    cancel_grace_seconds: float = Field(default=30.0, ge=0)
    """How long a cancelled job may take to stop by itself before it is ended."""
    silence_seconds: float = Field(default=60.0, gt=0)
    """An idle worker exits when a job has waited this long for it: its connection is dead."""
    serving_dtype: Dtype = "float32"
    """What the vLLM servers compute in: in float32 a canary demands equal tokens, else
    log-probabilities within a tolerance."""
