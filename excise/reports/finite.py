"""Figures of reports that are NaN or infinite, which no report may hold."""

from __future__ import annotations

import math


def find_non_finite(value: object, path: str = "report") -> str | None:
    """Return where the first NaN or infinite figure of a dumped report stands; None if nowhere."""
    if isinstance(value, float) and not math.isfinite(value):
        return path
    parts: list[tuple[str, object]] = []
    if isinstance(value, dict):
        parts = [(f"{path}.{key}", child) for key, child in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(f"{path}[{position}]", child) for position, child in enumerate(value)]
    found = (find_non_finite(child, place) for place, child in parts)
    return next(filter(None, found), None)
