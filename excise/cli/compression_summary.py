"""Summary of a compression's report at the terminal, as tables."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from excise.cli.output import clean
from excise.cli.summary_parts import print_gates, print_verdict
from excise.cli.tables import print_table
from excise.reports.compression import CompressionReport


def print_compression(report: CompressionReport, console: Console) -> None:
    """Print the verdict, perplexity and tasks, and the gates."""
    print_verdict(report.verdict, report.reason, console)
    print_table(_build_numbers(report), console)
    print_gates(report.gates, console)
    if report.speed_note:
        console.print(clean(report.speed_note))


def _build_numbers(report: CompressionReport) -> Table:
    """Return a table of the figures before and after."""
    table = Table("", "before", "after", "", title="What changed", title_justify="left")
    perplexity = report.perplexity
    change = perplexity.after / perplexity.before - 1 if perplexity.before else 0.0
    table.add_row(
        f"perplexity ({clean(perplexity.corpus)})",
        f"{perplexity.before:.2f}",
        f"{perplexity.after:.2f}",
        f"{change:+.1%}",
    )
    for task in report.tasks:
        before, after = task.before, task.after
        table.add_row(
            f"{clean(task.name)}, accuracy ({after.questions})",
            f"{before.accuracy:.3f}",
            f"{after.accuracy:.3f} ± {after.accuracy_error:.3f}",
            f"{after.accuracy - before.accuracy:+.3f}",
        )
    method = f"{clean(report.method)}, {clean(report.pattern)}"
    table.add_row("weights set to zero", "", f"{report.achieved_sparsity:.1%}", method)
    return table
