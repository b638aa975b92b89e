"""JSON in which no key may occur twice in an object."""

from __future__ import annotations

import json
from typing import Any

from excise.intake.duplicates import DuplicateKeyError


def load_json(content: str | bytes) -> Any:
    """Return the value of `content`, as `json.loads` does.

    Raises `DuplicateKeyError`, and what `json.loads` raises: `ValueError` and `RecursionError`.
    """
    return json.loads(content, object_pairs_hook=_build_object)


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise DuplicateKeyError(key)
            seen.add(key)
    return found
