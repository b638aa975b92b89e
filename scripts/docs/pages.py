"""A page of the site that is generated, and the Markdown all generators write."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Page:
    """One generated page."""

    path: str
    """Where it lies below `docs/`, with the suffix .md."""
    title: str
    text: str
    """Markdown, its first line the heading."""
    undocumented: tuple[str, ...] = field(default=())
    """Public names on it that nothing is said about; one of them fails the strict build."""


def build_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table without the columns that no row fills; nothing where there are no rows."""
    filled = [place for place in range(len(header)) if any(row[place] for row in rows)]
    if not filled:
        return ""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        f"| {' | '.join(_fit_cell(line[place]) for place in filled)} |" for line in lines
    )


def join_blocks(blocks: Sequence[str]) -> str:
    """The blocks that are not empty, a blank line between them."""
    return "\n\n".join(block.strip("\n") for block in blocks if block.strip()) + "\n"


def join_lines(text: str) -> str:
    """A paragraph broken over lines of source, as one line; blank lines stay."""
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()))


def _fit_cell(text: str) -> str:
    """Text that stays within its cell."""
    return " ".join(text.split()).replace("|", "\\|")
