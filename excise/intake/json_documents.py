"""JSON in which no key may occur twice in an object."""

from __future__ import annotations

import json
from typing import Any

from excise.intake.duplicates import DuplicateKeyError


class TooManyFieldsError(ValueError):
    """The objects of a document have more fields together than are looked at."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"the objects have more than {limit} fields together. Send fewer.")


def load_json(content: str | bytes, max_fields: int | None = None) -> Any:
    """Return the value of `content`, as `json.loads` does.

    Raises `DuplicateKeyError`, `TooManyFieldsError` for more than `max_fields` in all objects
    together, and what `json.loads` raises: `ValueError` and `RecursionError`.
    """
    if max_fields is None:
        return json.loads(content, object_pairs_hook=_build_object)
    fields = 0

    def build_counted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal fields
        fields += len(pairs)
        if fields > max_fields:
            raise TooManyFieldsError(max_fields)
        return _build_object(pairs)

    return json.loads(content, object_pairs_hook=build_counted)


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKeyError(key)
            seen.add(key)
    return found
