"""Summary of a report of any kind at the terminal, as tables."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from excise.cli.circuit_summary import print_circuit
from excise.cli.compression_summary import print_compression
from excise.cli.correction_summary import print_correction
from excise.cli.output import CommandError
from excise.cli.summary_parts import print_gates
from excise.reports import CircuitReport, CompressionReport, CorrectionReport, GateReport, Report
from excise.resources.jobs import JobView


def require_own_verdict(report: Report, job: JobView) -> None:
    """Raise `CommandError` for a report that does not say what the job's exit code will."""
    if isinstance(report, GateReport):
        raise CommandError(f"report.json of {job.id} is from excise gate, not a job's report.")
    if report.verdict != job.verdict:
        raise CommandError(
            f"report.json says {report.verdict}, but the verdict of {job.id} is {job.verdict}."
        )


def print_report(report: Report, console: Console) -> None:
    """Print the verdict, the figures and the gates."""
    match report:
        case CorrectionReport():
            print_correction(report, console)
        case CircuitReport():
            print_circuit(report, console)
        case CompressionReport():
            print_compression(report, console)
        case GateReport():
            console.print(Text(f"Outcome: {report.outcome}"))
            print_gates(report.gates, console)
