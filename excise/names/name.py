"""What every name is: a string that can be told from other strings."""

from __future__ import annotations

from enum import StrEnum


class Name(StrEnum):
    """Base of the names; in messages and lists a name looks like the string that it is."""

    def __repr__(self) -> str:
        return repr(self.value)
