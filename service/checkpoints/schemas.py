"""Checkpoints on the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class CheckpointView(BaseModel):
    """One checkpoint under the model roots, and whether a job may use it."""

    id: str
    object: Literal["model"] = "model"
    architecture: str | None
    usable: bool
    problem: str | None
    """Why it cannot be used."""


class CheckpointList(BaseModel):
    """Every checkpoint, by name."""

    object: Literal["list"] = "list"
    data: list[CheckpointView]
    has_more: bool = False
