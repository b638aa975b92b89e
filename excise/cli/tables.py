"""Tables at the terminal, which turn into lines where it is too narrow for them."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

_LEAST_WIDTH = 60
"""Narrower, cells lose figures or are empty. Chosen by hand: four columns of figures still fit."""


def print_table(table: Table, console: Console) -> None:
    """Print the table; on a narrow terminal its title, and a line for each value."""
    if console.width >= _LEAST_WIDTH:
        console.print(table)
        return
    for line in _list_lines(table):
        console.print(line)


def _list_lines(table: Table) -> Iterator[Text]:
    """Yield the table as lines: what a row is about, then its values under their headings."""
    if table.title:
        yield _as_text(table.title)
    headings = [_as_text(column.header) for column in table.columns]
    for row in zip(*(column.cells for column in table.columns), strict=True):
        for place, (heading, cell) in enumerate(zip(headings, map(_as_text, row), strict=True)):
            if cell.plain:
                name = Text.assemble(heading, ": ") if heading.plain else Text()
                yield Text.assemble("  " if place else "", name, cell)


def _as_text(cell: RenderableType) -> Text:
    return cell if isinstance(cell, Text) else Text(str(cell))
