"""Errors on the wire: `application/problem+json` with OpenAI's `error` object beside it."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ProblemError(BaseModel):
    """The error as OpenAI's clients look for it."""

    code: str
    message: str
    """The same as the problem's `detail`."""
    param: str | None
    """The field it is about, such as `behaviours[0].threshold`."""


class Problem(BaseModel):
    """Why a request was refused or could not be carried out (RFC 9457)."""

    type: str
    title: str
    status: int = Field(ge=400, le=599)
    detail: str
    """What is wrong, which limit there is, and what helps."""
    error: ProblemError
