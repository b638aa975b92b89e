"""Reports of circuit and compression jobs as tables a person understands."""

from __future__ import annotations

from pydantic import BaseModel, Field
from rich.console import Console
from rich.table import Table

from excise.cli.output import clean
from excise.cli.summary import Gate, print_gates, print_verdict


class _Point(BaseModel):
    share: float
    kept: int


class _Curve(BaseModel):
    attributor: str
    cpr: float
    cmd: float
    chosen: _Point


class _HeldOut(BaseModel):
    whole_metric: float
    metric: float
    retention: float
    zero_retention: float


class _Circuit(BaseModel):
    attributor: str
    kept: int
    of: int
    held_out: _HeldOut


class _Task(BaseModel):
    name: str
    metric: str


class CircuitSummary(BaseModel):
    """The parts of a circuit's report.json that the summary shows."""

    verdict: str
    reason: str = ""
    granularity: str
    threshold: float
    task: _Task
    curves: list[_Curve] = Field(default_factory=list)
    circuit: _Circuit | None = None
    gates: list[Gate] = Field(default_factory=list)

    def print(self, console: Console) -> None:
        """Verdict first, then the circuit, every attributor's size, and the gates."""
        print_verdict(self.verdict, self.reason, console)
        if self.circuit is not None:
            console.print(self._build_circuit(self.circuit))
        if self.curves:
            console.print()
            console.print(self._build_curves())
        print_gates(self.gates, console)

    def _build_circuit(self, circuit: _Circuit) -> Table:
        """The job's circuit on held-out rows."""
        metric = clean(self.task.metric.replace("_", " "))
        table = Table("", "whole model", "circuit", "", title="The circuit", title_justify="left")
        held_out = circuit.held_out
        table.add_row(
            f"{clean(self.task.name)}: {metric}, held-out rows",
            f"{held_out.whole_metric:.3f}",
            f"{held_out.metric:.3f}",
            f"{held_out.retention:.1%} kept",
        )
        share = f"{circuit.kept / circuit.of:.3%} of all" if circuit.of else ""
        table.add_row(f"{clean(self.granularity)}s", str(circuit.of), str(circuit.kept), share)
        table.add_row("with zero for the rest", "", "", f"{held_out.zero_retention:.1%} kept")
        return table

    def _build_curves(self) -> Table:
        """How large a circuit each attributor needs."""
        needed = f"keeps {self.threshold:.0%}"
        table = Table(
            "attributor", needed, "share", "CPR", "CMD", title="Attributors", title_justify="left"
        )
        for curve in self.curves:
            table.add_row(
                clean(curve.attributor),
                str(curve.chosen.kept),
                f"{curve.chosen.share:.2%}",
                f"{curve.cpr:.3f}",
                f"{curve.cmd:.3f}",
            )
        return table


class _Perplexity(BaseModel):
    corpus: str
    before: float
    after: float


class _Score(BaseModel):
    questions: int
    accuracy: float
    accuracy_error: float


class _TaskChange(BaseModel):
    name: str
    before: _Score
    after: _Score


class CompressionSummary(BaseModel):
    """The parts of a compression's report.json that the summary shows."""

    verdict: str
    reason: str = ""
    method: str
    pattern: str
    achieved_sparsity: float
    perplexity: _Perplexity
    tasks: list[_TaskChange] = Field(default_factory=list)
    gates: list[Gate] = Field(default_factory=list)
    speed_note: str = ""

    def print(self, console: Console) -> None:
        """Verdict first, then perplexity and tasks, and the gates."""
        print_verdict(self.verdict, self.reason, console)
        console.print(self._build_numbers())
        print_gates(self.gates, console)
        if self.speed_note:
            console.print(clean(self.speed_note))

    def _build_numbers(self) -> Table:
        """What was measured, before and after."""
        table = Table("", "before", "after", "", title="What changed", title_justify="left")
        perplexity = self.perplexity
        change = perplexity.after / perplexity.before - 1 if perplexity.before else 0.0
        table.add_row(
            f"perplexity ({clean(perplexity.corpus)})",
            f"{perplexity.before:.2f}",
            f"{perplexity.after:.2f}",
            f"{change:+.1%}",
        )
        for task in self.tasks:
            before, after = task.before, task.after
            table.add_row(
                f"{clean(task.name)}, accuracy ({after.questions})",
                f"{before.accuracy:.3f}",
                f"{after.accuracy:.3f} ± {after.accuracy_error:.3f}",
                f"{after.accuracy - before.accuracy:+.3f}",
            )
        method = f"{clean(self.method)}, {clean(self.pattern)}"
        table.add_row("weights set to zero", "", f"{self.achieved_sparsity:.1%}", method)
        return table
