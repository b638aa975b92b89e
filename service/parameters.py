"""Strict parsing of query and header parameters, as the OpenAPI document describes them."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import Header
from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError
from starlette.datastructures import Headers, QueryParams

from service.errors import InvalidRequestError

_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,19}")
_TRUTHS = {"true": True, "false": False}
_SINGLE = ("Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID")
"""Headers of which a second one would contradict the first."""


def require_single(headers: Headers) -> None:
    """Raise `InvalidRequestError` for a header that is given twice and can be meant once only."""
    for name in _SINGLE:
        if len(headers.getlist(name)) > 1:
            raise InvalidRequestError(
                f"The request has more than one header {name}. Send one.", param=name
            )


def require_single_fields(query: QueryParams) -> None:
    """Raise `InvalidRequestError` for a parameter that a query gives twice: none is a list."""
    seen = set()
    for name, _ in query.multi_items():
        if name in seen:
            raise InvalidRequestError(f"The query gives {name} twice. Give it once.", param=name)
        seen.add(name)


def _read_int(value: object) -> object:
    """Return the integer in a query's digits; pydantic alone would also accept ` 1_0.0 `."""
    if isinstance(value, str) and not _WHOLE_NUMBER.fullmatch(value):
        raise PydanticCustomError("int_parsing", "not an integer")
    return value


def _read_bool(value: object) -> object:
    """Return the truth of `true` or `false`; pydantic alone would also accept `y`, `on`, `1`."""
    if isinstance(value, str):
        if value.lower() not in _TRUTHS:
            raise PydanticCustomError("bool_parsing", "not a boolean")
        return _TRUTHS[value.lower()]
    return value


IN_DIGITS = BeforeValidator(_read_int)
"""Must be the last annotation of an integer in a query."""
IN_WORDS = BeforeValidator(_read_bool)
"""Must be the last annotation of a boolean in a query."""

IdempotencyKeyHeader = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="The same key and body again give the same answer and change nothing",
        json_schema_extra={
            "pattern": "^[!-~]([ -~]*[!-~])?$",
            "minLength": 1,
            "maxLength": 255,
        },
    ),
]
"""Checked by the operation; the OpenAPI document describes the rule."""

IfNoneMatch = Annotated[
    str | None, Header(description="An ETag; if it still matches, the answer is 304")
]
