"""Parts of reports' summaries at the terminal: the verdict and the gates."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from excise.cli.output import clean
from excise.cli.tables import print_table
from excise.names import Verdict
from excise.reports.gates import GateResult

_VERDICT_WORDS = {
    Verdict.PASSED: ("PASSED", "bold green"),
    Verdict.REJECTED: ("REJECTED", "bold red"),
    Verdict.NO_EFFECT: ("NO EFFECT", "bold yellow"),
}


def print_verdict(verdict: Verdict, reason: str, console: Console) -> None:
    """Print the verdict and its reason."""
    words, style = _VERDICT_WORDS[verdict]
    console.print()
    console.print(Text(f"Verdict: {words}", style=style))
    if reason:
        console.print(Text(clean(reason)))
    console.print()


def print_gates(gates: list[GateResult], console: Console) -> None:
    """Print the gates, if there are any."""
    if gates:
        console.print()
        print_table(_build_gates(gates, "Gates"), console)


def print_failed_gates(gates: list[GateResult], console: Console) -> None:
    """Print how many gates were met, and those that were not."""
    if not gates:
        return
    failed = [gate for gate in gates if not gate.is_met]
    console.print()
    console.print(f"Gates: {len(gates) - len(failed)} of {len(gates)} met.")
    if failed:
        print_table(_build_gates(failed, "Gates not met"), console)


def _build_gates(gates: list[GateResult], heading: str) -> Table:
    """Return a table of gates with limit, value and whether they are met."""
    table = Table("gate", "limit", "value", "", title=heading, title_justify="left")
    for gate in gates:
        outcome = Text("pass", style="green") if gate.is_met else Text("FAIL", style="bold red")
        value = "not measured" if gate.value is None else f"{gate.value:.4g}"
        if gate.value is None and gate.unmeasured:
            value += f": {clean(gate.unmeasured)}"
        sentence = clean(gate.sentence)
        if not gate.is_met:
            sentence += "".join(f"\n{clean(text)}" for text in (gate.note, gate.remedy) if text)
        table.add_row(sentence, f"{gate.limit:.4g}", value, outcome)
    return table
