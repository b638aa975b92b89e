"""The error for a key that occurs twice in a document."""

from __future__ import annotations

_MAX_SHOWN_CHARACTERS = 100


class DuplicateKeyError(ValueError):
    """A mapping has a key twice, so that one of its values would silently be lost."""

    def __init__(self, key: object, line: int | None = None) -> None:
        """`line` is that of the second occurrence, from 1, if it is known."""
        self.key = str(key)[:_MAX_SHOWN_CHARACTERS]
        place = "" if line is None else f" (the second time on line {line})"
        super().__init__(f"the key {self.key!r} is given twice{place}. Keep one of the two.")
