"""Tenants on the wire: quotas and usage."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Quotas(BaseModel):
    """Limits of one tenant. The docstrings of fields become their descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    prompt_sets: int = Field(default=10_000, ge=0)
    """Number of prompt sets it may keep."""
    prompt_set_bytes: int = Field(default=1024**3, ge=0)
    """Total bytes of its prompt sets."""
    jobs: int = Field(default=10_000, ge=0)
    """Number of jobs it may keep."""
    open_jobs: int = Field(default=100, ge=0)
    """Number of jobs that may be queued or running."""
    job_bytes: int = Field(default=1024**4, ge=0)
    """Total bytes of its jobs' specs and files; beyond it no new job is accepted."""
    keys: int = Field(default=200, ge=0)
    """Number of API keys that are valid or were revoked on the same day."""
    streams: int = Field(default=200, ge=0)
    """Number of event streams it may have open in each API process."""


class Usage(BaseModel):
    """How much of its quotas a tenant uses."""

    model_config = ConfigDict(frozen=True)

    prompt_sets: int
    prompt_set_bytes: int
    jobs: int
    open_jobs: int
    job_bytes: int
    keys: int


class TenantView(BaseModel):
    """The tenant a key belongs to."""

    id: str
    object: Literal["tenant"] = "tenant"
    name: str
    created_at: datetime
    quotas: Quotas
    usage: Usage
