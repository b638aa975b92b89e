"""Showing a report of any kind of job at the terminal."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError
from rich.console import Console

from excise.cli.kind_summaries import CircuitSummary, CompressionSummary
from excise.cli.output import CommandError
from excise.cli.summary import parse_report, print_summary

_KINDS: dict[str, type[CircuitSummary] | type[CompressionSummary]] = {
    "circuit": CircuitSummary,
    "compression": CompressionSummary,
}


class _Kind(BaseModel):
    kind: str = "correction"


def print_report(content: bytes, console: Console) -> None:
    """Show the report.json in `content`. Raises `CommandError` if it is none."""
    try:
        summary = _KINDS.get(_Kind.model_validate_json(content).kind)
        if summary is not None:
            summary.model_validate_json(content).print(console)
            return
    except ValidationError:
        raise CommandError("report.json is not a report of a version known here.") from None
    print_summary(parse_report(content), console)
