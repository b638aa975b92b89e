"""JSON in which no key may occur twice in an object, and where in it something stands."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
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


def find_part(value: object, is_sought: Callable[[object], bool], place: str) -> str | None:
    """Return where the first number, text or other plain value that is sought stands in `value`.

    `place` is the name of `value` itself; the answer is such as `spec.layers[2]`, or None.
    """
    waiting = [(place, value)]  # not by recursion: what was read may be as deep as that allows
    while waiting:
        name, part = waiting.pop()
        if isinstance(part, dict):
            inner = [(f"{name}.{key}", own) for key, own in part.items()]
        elif isinstance(part, list | tuple):
            inner = [(f"{name}[{number}]", own) for number, own in enumerate(part)]
        elif is_sought(part):
            return name
        else:
            continue
        waiting.extend(reversed(inner))
    return None


def is_non_finite(value: object) -> bool:
    """Return whether a value is NaN or infinite, which Python reads from JSON but JSON has not."""
    return isinstance(value, float) and not math.isfinite(value)


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKeyError(key)
            seen.add(key)
    return found
