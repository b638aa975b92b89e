"""Summary of a report of any kind at the terminal, as tables."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from excise.cli.circuit_summary import print_circuit
from excise.cli.compression_summary import print_compression
from excise.cli.correction_summary import print_correction
from excise.cli.summary_parts import print_gates
from excise.reports import CircuitReport, CompressionReport, CorrectionReport, GateReport, Report


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
