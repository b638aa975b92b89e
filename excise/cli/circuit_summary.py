"""Summary of a circuit's report at the terminal, as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from excise.cli.output import clean
from excise.cli.summary_parts import print_gates, print_verdict
from excise.cli.tables import print_table
from excise.reports.circuit import ChosenCircuit, CircuitReport


def print_circuit(report: CircuitReport, console: Console) -> None:
    """Print the verdict, the circuit, the size that every attributor needs, and the gates."""
    print_verdict(report.verdict, report.reason, console)
    if report.circuit is not None:
        print_table(_build_circuit(report, report.circuit), console)
    if report.curves:
        console.print()
        print_table(_build_curves(report), console)
    print_gates(report.gates, console)


def _build_circuit(report: CircuitReport, circuit: ChosenCircuit) -> Table:
    """Return a table of the job's circuit, measured on held-out rows."""
    metric = clean(report.task.metric.replace("_", " "))
    table = Table("", "whole model", "circuit", "", title="The circuit", title_justify="left")
    held_out = circuit.held_out
    table.add_row(
        f"{clean(report.task.name)}: {metric}, held-out rows",
        f"{held_out.whole_metric:.3f}",
        f"{held_out.metric:.3f}",
        f"{held_out.retention:.1%} kept",
    )
    share = f"{circuit.kept / circuit.of:.3%} of all" if circuit.of else ""
    table.add_row(f"{clean(report.granularity)}s", str(circuit.of), str(circuit.kept), share)
    table.add_row("with zero for the rest", "", "", f"{held_out.zero_retention:.1%} kept")
    return table


def _build_curves(report: CircuitReport) -> Table:
    """Return a table of the circuit size that each attributor needs."""
    needed = f"keeps {report.threshold:.0%}"
    table = Table(
        "attributor", needed, "share", "CPR", "CMD", title="Attributors", title_justify="left"
    )
    for curve in report.curves:
        table.add_row(
            clean(curve.attributor),
            str(curve.chosen.kept),
            f"{curve.chosen.share:.2%}",
            f"{curve.cpr:.3f}",
            f"{curve.cmd:.3f}",
        )
    return table
