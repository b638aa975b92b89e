"""Tables on terminals of any width: no figure is lost."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from excise.cli.tables import print_table

FIGURES = ("0.187", "0.609", "+0.422 (95 % interval +0.307 to +0.538)")


def show(width: int) -> str:
    table = Table("", "before", "after", "", title="What changed", title_justify="left")
    table.add_row("mean score of [all] prompts", *FIGURES)
    table.add_row(Text("perplexity"), "", "27.31", "")
    out = StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None, markup=False)
    print_table(table, console)
    return out.getvalue()


@pytest.mark.parametrize("width", [8, 20, 39, 59])
def test_a_narrow_terminal_shows_each_value_on_a_line(width: int) -> None:
    shown = "".join(show(width).split())
    for text in ("What changed", "of [all] prompts", *FIGURES, "after: 27.31"):
        assert "".join(text.split()) in shown
    assert "┃" not in shown


def test_the_lines_say_what_each_value_is() -> None:
    assert show(59).splitlines() == [
        "What changed",
        "mean score of [all] prompts",
        "  before: 0.187",
        "  after: 0.609",
        "  +0.422 (95 % interval +0.307 to +0.538)",
        "perplexity",
        "  after: 27.31",
    ]


def test_a_wide_terminal_shows_a_table() -> None:
    assert "│ 0.187" in show(60)
