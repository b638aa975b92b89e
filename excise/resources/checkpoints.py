"""Models on the wire: OpenAI's model object with additional fields."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from excise.names import ModelKind


class ModelView(BaseModel):
    """A model that jobs may name or applications may call."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """Seconds since 1970; 0 if not known."""
    owned_by: str
    kind: ModelKind
    """`checkpoint`: under the model roots, for jobs. `base`, `version`, `alias`: to be called."""
    architecture: str | None = None
    usable: bool = True
    """Whether a job can use it, or whether it answers requests now."""
    problem: str | None = None
    """Why it is not usable."""


class ModelList(BaseModel):
    """All models; those that applications can call come first."""

    object: Literal["list"] = "list"
    data: list[ModelView]
    has_more: bool = False
