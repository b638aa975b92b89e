"""Prompt sets on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel


class PromptSetView(BaseModel):
    """One prompt set, without its prompts."""

    id: str
    object: Literal["prompt_set"] = "prompt_set"
    name: str
    format: str
    sha256: str
    prompts: int
    """Number of prompts or rows in it."""
    bytes: int
    created_at: datetime


class PromptSetList(BaseModel):
    """One page of prompt sets, newest first."""

    object: Literal["list"] = "list"
    data: list[PromptSetView]
    has_more: bool
