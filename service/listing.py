"""A tenant's things of one kind: found by id, or listed page by page, newest first."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute

from service.errors import NotFoundError

_Found = TypeVar("_Found")
_Rows = TypeVar("_Rows", bound=Select[Any])


@dataclass(frozen=True)
class Noun:
    """One kind of thing, with the wording for errors."""

    name: str
    listing: str
    """Where all of them are listed, as in "List them with …"."""
    id_pattern: re.Pattern[str]
    """Pattern that every id matches; anything else is not looked up."""

    def get(self, thing_id: str, look_up: Callable[[str], _Found | None]) -> _Found:
        """Return what `look_up` finds under this id. Raises `NotFoundError`."""
        found = self._find(thing_id, look_up)
        if found is None:
            raise NotFoundError(f"There is no such {self.name}. List them with {self.listing}.")
        return found

    def get_last(self, after: str | None, look_up: Callable[[str], _Found | None]) -> _Found | None:
        """Return the last thing of the page before, or None. Raises `NotFoundError`."""
        if after is None:
            return None
        found = self._find(after, look_up)
        if found is None:
            raise NotFoundError(
                f"after names no {self.name}, or one that was deleted. Use the id of the last one "
                "on the page before that is still there, or begin again without it.",
                param="after",
            )
        return found

    def _find(self, thing_id: str, look_up: Callable[[str], _Found | None]) -> _Found | None:
        return look_up(thing_id) if self.id_pattern.fullmatch(thing_id) else None


def page_back(
    statement: _Rows, number: InstrumentedAttribute[int], before: int | None, limit: int
) -> _Rows:
    """Return the statement for up to `limit` rows numbered below `before`, highest first."""
    if before is not None:
        statement = statement.where(number < before)
    return statement.order_by(number.desc()).limit(limit)


def cut_page(rows: Sequence[_Found], limit: int) -> tuple[Sequence[_Found], bool]:
    """Return up to `limit` rows and whether there are more, given one row more than the limit."""
    return rows[:limit], len(rows) > limit
