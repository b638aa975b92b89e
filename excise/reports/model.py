"""What every part of a report is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ReportModel(BaseModel):
    """Base of the report's parts: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
