"""The base class of names: strings with a type of their own."""

from __future__ import annotations

from enum import StrEnum


class Name(StrEnum):
    """Base class of names; in messages and lists, a name looks like a plain string."""

    def __repr__(self) -> str:
        return repr(self.value)
