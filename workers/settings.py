"""The worker's settings: those of the service, and those that only workers need."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.serving.canary import Dtype
from service.settings import Roots, Settings


class ScorerHost(BaseModel):
    """A host that the operator allows for scorers, even if private or over http."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str
    """`host`, or `host:port`."""
    secret_variable: str | None = None
    """Environment variable that holds the secret it is sent."""
    secret_use: Literal["bearer", "hmac"] = "bearer"  # noqa: S105 - a way of using one


class ScorerSettings(BaseSettings):
    """The operator's settings for scorers; `excise gate` reads only these."""

    model_config = SettingsConfigDict(
        env_prefix="EXCISE_", extra="ignore", hide_input_in_errors=True, frozen=True
    )

    scorer_roots: Roots = ()
    """Folders in which Detoxify checkpoints are searched by name, separated like PATH. Published
    variants are fetched into the first."""
    scorer_hosts: tuple[ScorerHost, ...] = ()
    """Hosts of custom scorers that need permission or a secret, as a JSON list."""


class WorkerSettings(ScorerSettings, Settings):
    """Read from `EXCISE_<NAME>` like the service's; database, broker and artifacts are shared."""

    device: str = "auto"
    """Where models run: `cpu`, `cuda`, `cuda:1`, `auto` for a GPU when there is one, or `balanced`
    for models too large for one GPU: layer by layer over all that there are."""
    segments: int | None = Field(default=None, ge=1)
    """Number of segments of layers in which relevance of single weights is computed. The sums of
    one segment are in memory at a time; more than one segment take up to a third more time in all.
    By default the smallest number for which the sums take at most a quarter of the model's size
    and half of the free memory."""
    heartbeat_seconds: float = Field(default=5.0, gt=0)
    """Pause between two heartbeats of the worker and two renewals of its lease."""
    cancel_grace_seconds: float = Field(default=30.0, ge=0)
    """Seconds that a cancelled job may take to stop before it is killed."""
    metrics_address: str | None = Field(
        default=None, pattern=r"^(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}$"
    )
    """`host:port` at which this worker serves metrics; nowhere unless it is set. No token is
    required: the network must restrict access."""
    silence_seconds: float = Field(default=60.0, gt=0)
    """An idle worker exits if a job has waited this many seconds: its connection must be dead."""
    serving_dtype: Dtype = "float32"
    """Dtype of the vLLM servers: in float32 a canary requires equal tokens, otherwise
    log-probabilities within a tolerance."""

    def list_secrets(self) -> list[str]:
        """Texts that no log may show: the service's secrets, and those for custom scorers."""
        variables = (host.secret_variable for host in self.scorer_hosts)
        own = (os.environ.get(name, "") for name in variables if name is not None)
        return [*super().list_secrets(), *filter(None, own)]
