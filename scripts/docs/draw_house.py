"""Draw the picture of the house: its rooms as they stand, from pyproject.toml and the folders.

    python scripts/docs/draw_house.py

writes docs/images/house.svg. A test says when the picture is of another house.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "house.svg"
ENGINES = frozenset(
    {"correction", "circuits", "compression", "publishing", "reports", "gates", "measuring"}
    | {"abilities", "scorers", "attribution", "pruning", "models", "families", "domain"}
    | {"progress", "stages", "words"}
)
"""Rooms of `workers` that know no queue, database or settings."""

WIDTH, ROOM_HEIGHT, GAP, MARGIN = 1080, 30, 6, 24
_WORKERS_LEFT, _WORKERS_WIDTH = 540, 516
_SERVICE_LEFT, _SERVICE_WIDTH = 24, 260
_TOP, _HEADER = 92, 62
"""Where the houses begin, and how much of them is name and note."""
INK, FAINT, PAPER = "#1c2229", "#5b6570", "#fcfcfa"
GREEN, GREEN_TINT, BLUE, BLUE_TINT, SAND = "#0b6650", "#e3f3ee", "#1557a0", "#e6eef7", "#f3ead2"
_STYLE = f"""
text {{ font: 14px system-ui, 'DejaVu Sans', sans-serif; fill: {INK}; }}
.title {{ font: bold 20px Georgia, 'DejaVu Serif', serif; }}
.small {{ font-size: 12px; fill: {FAINT}; }}
.room {{ text-anchor: middle; }}
.arrow {{ stroke: {FAINT}; stroke-width: 1.5; fill: none; marker-end: url(#tip); }}
"""


def read_floors(root: Path) -> list[list[str]]:
    """The rooms of `workers` from the roof down: those of one floor never import each other."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    (layers,) = (found["layers"] for found in contracts["contracts"] if found["type"] == "layers")
    return [[room.strip() for room in floor.split("|")] for floor in layers]


def list_rooms(package: Path) -> list[str]:
    """The packages directly inside a package."""
    return sorted(path.parent.name for path in package.glob("*/__init__.py"))


def draw_house(root: Path) -> str:
    """The picture as SVG."""
    floors = read_floors(root)
    bottom = _TOP + _HEADER + len(floors) * (ROOM_HEIGHT + GAP) + 10
    parts = [
        *_draw_doors(),
        *_draw_service(list_rooms(root / "service"), bottom),
        *_draw_workers(floors, bottom),
        *_draw_stores(bottom),
        *_draw_foundation(list_rooms(root / "excise"), bottom + 20),
    ]
    height = bottom + 130
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            "<title>The house: service and workers over the package excise</title>",
            f"<style>{_STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" fill="{FAINT}"/>'
            "</marker></defs>",
            f'<rect width="{WIDTH}" height="{height}" rx="12" fill="{PAPER}"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _draw_doors() -> Iterator[str]:
    """Who comes in: at the API, and at the engine's own door."""
    service, engine = _SERVICE_LEFT + _SERVICE_WIDTH / 2, _WORKERS_LEFT + _WORKERS_WIDTH / 2
    yield _text("command line · applications · CI", service, 34, "room")
    yield _text("excise patch, models, gate", engine, 34, "room")
    for middle in (service, engine):
        yield _arrow(f"M{middle} 46V{_TOP - 8}")


def _draw_service(rooms: Sequence[str], bottom: int) -> Iterator[str]:
    """The API, one room a noun."""
    yield _box(_SERVICE_LEFT, _TOP, _SERVICE_WIDTH, bottom - _TOP, BLUE, BLUE_TINT)
    yield _text("service/", _SERVICE_LEFT + 16, _TOP + 29, "title")
    yield _text("never imports torch or workers", _SERVICE_LEFT + 16, _TOP + 49, "small")
    for row, room in enumerate(["app", *rooms]):
        yield from _draw_row([room], _SERVICE_LEFT + 14, _SERVICE_WIDTH - 28, _row_top(row), BLUE)


def _draw_workers(floors: Sequence[Sequence[str]], bottom: int) -> Iterator[str]:
    """The engine and what carries it: a floor imports from those below it."""
    yield _box(_WORKERS_LEFT, _TOP, _WORKERS_WIDTH, bottom - _TOP, GREEN, GREEN_TINT)
    yield _text("workers/", _WORKERS_LEFT + 16, _TOP + 29, "title")
    note = "each floor imports from those below; white rooms are the engine"
    yield _text(note, _WORKERS_LEFT + 16, _TOP + 49, "small")
    for row, floor in enumerate(floors):
        yield from _draw_row(
            floor, _WORKERS_LEFT + 14, _WORKERS_WIDTH - 28, _row_top(row), GREEN, shade=True
        )


def _draw_stores(bottom: int) -> Iterator[str]:
    """What lies between service and workers, with the ways there and back."""
    left, width = 322, 180
    stores = (
        ("PostgreSQL", "jobs, stages, leases, events;", "the only source of truth"),
        ("Valkey", "messages with an id each;", "may be wiped at any time"),
        ("artifacts", "results by their hash,", "in a folder or in S3"),
        ("vLLM", "base and corrections, as the", "service keeps them"),
    )
    step = (bottom - _TOP) // len(stores)
    for place, (name, *lines) in enumerate(stores):
        top = _TOP + place * step + 16
        middle = top + 37
        yield _box(left, top, width, 74, FAINT, SAND)
        yield _text(name, left + width / 2, top + 24, "room")
        for number, line in enumerate(lines):
            yield _small(line, left + width / 2, top + 44 + 16 * number)
        yield _arrow(f"M{_SERVICE_LEFT + _SERVICE_WIDTH + 4} {middle}H{left - 4}")
        if name != "vLLM":
            start, end = (left + width + 4, _WORKERS_LEFT - 4)
            path = f"M{start} {middle}H{end}" if name == "Valkey" else f"M{end} {middle}H{start}"
            yield _arrow(path)


def _draw_foundation(rooms: Sequence[str], top: int) -> Iterator[str]:
    """The package both sides stand on."""
    yield _box(MARGIN, top, WIDTH - 2 * MARGIN, 88, INK, "#ffffff")
    yield _text("excise/", MARGIN + 16, top + 29, "title")
    note = "what people import: pydantic and httpx; no torch, web framework, database"
    yield _text(note, MARGIN + 104, top + 28, "small")
    yield from _draw_row(rooms, MARGIN + 14, WIDTH - 2 * MARGIN - 28, top + 44, INK)


def _row_top(row: int) -> int:
    return _TOP + _HEADER + row * (ROOM_HEIGHT + GAP)


def _draw_row(
    names: Sequence[str], left: float, width: float, top: float, line: str, *, shade: bool = False
) -> Iterator[str]:
    """Rooms side by side, equally wide."""
    own = (width - GAP * (len(names) - 1)) / len(names)
    for place, name in enumerate(names):
        x = left + place * (own + GAP)
        fill = "#ffffff" if not shade or name in ENGINES else "#c9e4da"
        yield (
            f'<rect x="{x:g}" y="{top}" width="{own:g}" height="{ROOM_HEIGHT}" rx="5" '
            f'fill="{fill}" stroke="{line}" stroke-opacity=".45"/>'
        )
        yield _text(name, x + own / 2, top + 20, "room")


def _box(left: float, top: float, width: float, height: float, line: str, fill: str) -> str:
    return (
        f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="10" fill="{fill}" '
        f'stroke="{line}"/>'
    )


def _text(text: str, x: float, y: float, kind: str) -> str:
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(text)}</text>'


def _small(text: str, x: float, y: float) -> str:
    return _text(text, x, y, "small room")


def _arrow(path: str) -> str:
    return f'<path class="arrow" d="{path}"/>'


if __name__ == "__main__":
    PICTURE.write_text(draw_house(ROOT), "utf-8")
