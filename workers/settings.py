"""The worker's settings: the service's, and what only workers need."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.serving.canary import Dtype
from service.settings import Roots, Settings


class ScorerHost(BaseModel):
    """A host the operator allows scorers on, private or over http."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str
    """`host`, or `host:port`."""
    secret_variable: str | None = None
    """Environment variable that holds the secret it is sent."""
    secret_use: Literal["bearer", "hmac"] = "bearer"  # noqa: S105 - a way of using one


class ScorerSettings(BaseSettings):
    """What an operator decides about scorers; of all settings `excise gate` reads only these."""

    model_config = SettingsConfigDict(
        env_prefix="EXCISE_", extra="ignore", hide_input_in_errors=True, frozen=True
    )

    scorer_roots: Roots = ()
    """Folders Detoxify checkpoints are found in by name, separated like PATH. Published variants
    are fetched into the first."""
    scorer_hosts: tuple[ScorerHost, ...] = ()
    """Hosts of custom scorers that need leave or a secret, as a JSON list."""


class WorkerSettings(ScorerSettings, Settings):
    """Read from `EXCISE_<NAME>` like the service's; database, broker and artifacts are shared."""

    device: str = "auto"
    """Where models run: `cpu`, `cuda`, `cuda:1`, `auto` for a GPU when there is one, or `balanced`
    for models too large for one GPU: layer by layer over all that there are."""
    segments: int | None = Field(default=None, ge=1)
    """In how many segments of layers relevance of single weights is computed: the sums of one are
    in memory at a time, and more than one cost up to a third more time altogether. By default as
    few as keep them at a quarter of the model's size, and at half of what is free."""
    heartbeat_seconds: float = Field(default=5.0, gt=0)
    """Pause between two heartbeats of the worker and two renewals of its lease."""
    cancel_grace_seconds: float = Field(default=30.0, ge=0)
    """How long a cancelled job may take to stop by itself before it is ended."""
    metrics_address: str | None = Field(
        default=None, pattern=r"^(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}$"
    )
    """Where this worker answers Prometheus, `host:port`; nowhere unless it is set. Who may reach it
    is the network's business: nothing is asked of whoever comes."""
    silence_seconds: float = Field(default=60.0, gt=0)
    """An idle worker exits when a job has waited this long for it: its connection is dead."""
    serving_dtype: Dtype = "float32"
    """What the vLLM servers compute in: in float32 a canary demands equal tokens, else
    log-probabilities within a tolerance."""

    def list_secrets(self) -> list[str]:
        """What no log may show: the service's secrets, and those that custom scorers are sent."""
        variables = (host.secret_variable for host in self.scorer_hosts)
        own = (os.environ.get(name, "") for name in variables if name is not None)
        return [*super().list_secrets(), *filter(None, own)]
