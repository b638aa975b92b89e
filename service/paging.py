"""Which page of a list a request asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query

from service.parameters import IN_DIGITS

ID_PATTERN = r"^[a-z]{2,4}_[0-9a-f]{24}$"
"""What every id looks like that a list pages by."""


@dataclass(frozen=True)
class PageRequest:
    """A page: what comes after the entry with the id `after`, at most `limit` of it."""

    after: str | None
    limit: int


def read_page(
    after: Annotated[
        str | None, Query(pattern=ID_PATTERN, description="The last id of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="How many to list"), IN_DIGITS] = 20,
) -> PageRequest:
    """The page the query names; the first one unless it names another."""
    return PageRequest(after, limit)


Paging = Annotated[PageRequest, Depends(read_page)]
