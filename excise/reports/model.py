"""The base class of all parts of reports."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ReportModel(BaseModel):
    """Base class of the parts of reports: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
