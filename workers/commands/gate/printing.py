"""What `excise gate` prints of a report; its files hold all of it, so a failure loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import typer

from excise.cli.output import clean, keep_secrets, printed_after_work
from excise.reports.gate_run import GateReport
from excise.reports.token_limits import describe_token_limits
from excise.reports.wording import describe_comparison, describe_gate
from workers.reports.abilities import describe_abilities


def print_report(report: GateReport, output: Path) -> None:
    """Print the report, whose files lie in `output`; where that fails, say so and go on."""
    hide = keep_secrets()
    with printed_after_work(output):
        for line in _list_lines(report):
            typer.echo(clean(hide(line)))  # reasons quote files of either checkpoint
        typer.echo(f"wrote gate.json, gate.md and gate.xml to {output}")


def _list_lines(report: GateReport) -> Iterator[str]:
    for note in report.notes:
        yield f"note: {note}"
    for gate in report.gates:
        yield f"{'met    ' if gate.is_met else 'NOT MET'}  {gate.name}: {describe_gate(gate)}"
        if not gate.is_met:
            yield f"         demanded: {gate.sentence}"
        if gate.remedy:
            yield f"         {gate.remedy}"
    yield from describe_token_limits(report.token_limits)
    if report.abilities:
        yield f"abilities: {describe_abilities(report.abilities)}"
    if report.comparison is not None:
        yield from describe_comparison(report.comparison)
