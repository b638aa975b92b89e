"""Models on the wire: OpenAI's model object, and what else there is to say about each kind."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from excise.names import ModelKind


class ModelView(BaseModel):
    """One thing that jobs may name or applications may call."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Seconds since 1970; 0 where nobody wrote it down."""
    owned_by: str
    kind: ModelKind
    """`checkpoint`: under the model roots, for jobs. `base`, `version`, `alias`: to be called."""
    architecture: str | None = None
    usable: bool = True
    """Whether a job may use it, or it answers now."""
    problem: str | None = None
    """Why not."""


class ModelList(BaseModel):
    """Every model, those that can be called first."""

    object: Literal["list"] = "list"
    data: list[ModelView]
    has_more: bool = False
