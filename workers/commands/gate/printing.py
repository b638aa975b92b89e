"""What `excise gate` prints of a report; its files hold all of it, so a failure loses nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import typer

from excise.cli.output import clean
from excise.reports.gate_run import GateReport
from excise.reports.token_limits import describe_token_limits
from excise.reports.wording import describe_comparison, describe_gate
from workers.reports.abilities import describe_abilities


def print_report(report: GateReport, output: Path) -> None:
    """Print the report, whose files lie in `output`; where that fails, say so and go on."""
    with _survived(output):
        for line in _list_lines(report):
            typer.echo(line)
        typer.echo(f"wrote gate.json, gate.md and gate.xml to {output}")


def _list_lines(report: GateReport) -> Iterator[str]:
    for note in report.notes:
        yield f"note: {note}"
    for gate in report.gates:
        yield f"{'met    ' if gate.passed else 'NOT MET'}  {gate.name}: {describe_gate(gate)}"
        if not gate.passed:
            yield f"         demanded: {gate.sentence}"
        if gate.remedy:
            yield f"         {gate.remedy}"
    yield from map(clean, describe_token_limits(report.token_limits))
    if report.abilities:
        yield f"abilities: {describe_abilities(report.abilities)}"
    if report.comparison is not None:
        yield from map(clean, describe_comparison(report.comparison))


@contextmanager
def _survived(output: Path) -> Iterator[None]:
    """Go on where nobody reads the output, or its disk is full: the exit code is the verdict's."""
    try:
        yield
    except OSError as error:
        # What is left in the buffer must not fail once more at the process's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        with suppress(OSError):
            typer.echo(
                f"the result could not be printed ({error.strerror}); it is in {output}", err=True
            )
