"""A tenant on the wire: what it may keep, and what it keeps."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Quotas(BaseModel):
    """How much one tenant may have. The docstrings of fields are their descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    prompt_sets: int = Field(default=10_000, ge=0)
    """Prompt sets it may keep."""
    prompt_set_bytes: int = Field(default=1024**3, ge=0)
    """Bytes of all its prompt sets together."""
    jobs: int = Field(default=10_000, ge=0)
    """Jobs it may keep."""
    open_jobs: int = Field(default=100, ge=0)
    """Of them, jobs that may be queued or running."""
    job_bytes: int = Field(default=1024**4, ge=0)
    """Bytes of all its jobs' specs and files together; beyond it no job is taken."""
    keys: int = Field(default=200, ge=0)
    """API keys that are valid, or were revoked on the same day."""
    streams: int = Field(default=200, ge=0)
    """Event streams it may have open in each API process."""


class Usage(BaseModel):
    """How much a tenant has."""

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
