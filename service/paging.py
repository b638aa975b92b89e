"""Paging: which page of a list a request asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query

from service.parameters import IN_DIGITS

ID_PATTERN = r"^[a-z]{2,4}_[0-9a-f]{24}$"
"""Pattern of all ids by which lists are paged."""


@dataclass(frozen=True)
class PageRequest:
    """A page: at most `limit` entries after the one with the id `after`."""

    after: str | None
    limit: int


def read_page(
    after: Annotated[
        str | None, Query(pattern=ID_PATTERN, description="The last id of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="How many to list"), IN_DIGITS] = 20,
) -> PageRequest:
    """Return the page that the query names, by default the first."""
    return PageRequest(after, limit)


Paging = Annotated[PageRequest, Depends(read_page)]
