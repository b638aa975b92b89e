"""Errors on the wire: `application/problem+json` with OpenAI's `error` object in it."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ProblemError(BaseModel):
    """The error in the form that OpenAI's clients expect."""

    code: str
    message: str
    """The same as the problem's `detail`."""
    param: str | None
    """The field concerned, such as `behaviours[0].threshold`."""


class Problem(BaseModel):
    """Why a request was refused or could not be carried out (RFC 9457)."""

    type: str
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    """What is wrong, the limit, and the remedy."""
    error: ProblemError
