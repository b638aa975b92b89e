"""Finding by id, and pages of a list."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import Integer, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from service.errors import NotFoundError
from service.listing import Noun, cut_page, page_back

FROG = Noun("frog", "GET /v1/frogs", re.compile(r"frog_[0-9]"))
KNOWN = {"frog_1": "Kermit", "toad": "no frog"}


class Base(DeclarativeBase):
    """Of this test's only table."""


class Frog(Base):
    """A row with a number."""

    __tablename__ = "frogs"
    number: Mapped[int] = mapped_column(Integer, primary_key=True)


def test_what_is_there_is_found() -> None:
    assert FROG.get("frog_1", KNOWN.get) == "Kermit"
    assert FROG.get_last("frog_1", KNOWN.get) == "Kermit"
    assert FROG.get_last(None, KNOWN.get) is None


@pytest.mark.parametrize("frog", ["frog_2", "toad", "", "frog_1\n", "frog_1\0"])
def test_what_is_not_there_is_refused_and_what_is_no_id_not_looked_up(frog: str) -> None:
    asked: list[str] = []

    def look_up(frog_id: str) -> str | None:
        asked.append(frog_id)
        return KNOWN.get(frog_id)

    with pytest.raises(NotFoundError, match=r"no such frog\. List them with GET /v1/frogs\."):
        FROG.get(frog, look_up)
    with pytest.raises(NotFoundError, match="after names no frog") as found:
        FROG.get_last(frog, look_up)
    assert found.value.param == "after"
    assert asked == (["frog_2"] * 2 if frog == "frog_2" else [])


def test_a_page_begins_below_the_last_one() -> None:
    first, second = (str(page_back(select(Frog), Frog.number, before, 3)) for before in (None, 7))
    assert "WHERE" not in first
    assert "WHERE frogs.number < " in second
    assert "ORDER BY frogs.number DESC" in first
    assert "LIMIT" in first


def test_one_more_than_the_page_says_that_there_are_more() -> None:
    assert cut_page([1, 2, 3], 2) == ([1, 2], True)
    assert cut_page([1, 2], 2) == ([1, 2], False)
    assert cut_page([], 2) == ([], False)
