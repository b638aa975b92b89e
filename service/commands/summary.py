"""A correction's report as tables a person understands."""

from __future__ import annotations

import textwrap

from pydantic import BaseModel, Field, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from service.commands.output import CommandError, clean

_VERDICT_WORDS = {
    "passed": ("PASSED", "bold green"),
    "rejected": ("REJECTED", "bold red"),
    "no_effect": ("NO EFFECT", "bold yellow"),
}
_MAX_SAMPLE_CHARACTERS = 420


class _Effect(BaseModel):
    before: float
    after: float
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    draws: int | None = None


class _Behaviour(BaseModel):
    name: str
    metric: str
    direction: str = ""
    prompts: int | None = None
    triggering: int | None = None
    held_out: _Effect | None = None
    random_control: _Effect | None = None


class _Perplexity(BaseModel):
    corpus: str
    before: float
    after: float


class _Divergence(BaseModel):
    mean: float


class _Damage(BaseModel):
    perplexity: _Perplexity | None = None
    kl: _Divergence | None = None


class _Patch(BaseModel):
    components: int
    of: int
    granularity: str = "neuron"
    modules: dict[str, list[int]] = Field(default_factory=dict)


class Gate(BaseModel):
    """One limit of a report against its measured value."""

    sentence: str
    limit: float
    value: float | None
    passed: bool


class _Sample(BaseModel):
    prompt: str
    before: str
    after: str
    split: str = ""
    metric_before: float
    metric_after: float


class ReportSummary(BaseModel):
    """The parts of report.json that the summary shows; newer fields are passed over."""

    verdict: str
    reason: str = ""
    behaviours: list[_Behaviour] = Field(default_factory=list)
    damage: _Damage | None = None
    patch: _Patch | None = None
    gates: list[Gate] = Field(default_factory=list)
    samples: list[_Sample] = Field(default_factory=list)


def parse_report(content: bytes) -> ReportSummary:
    """The report in `content`. Raises `CommandError` if it is none."""
    try:
        return ReportSummary.model_validate_json(content)
    except ValidationError:
        raise CommandError("report.json is not a report of a version known here.") from None


def print_summary(report: ReportSummary, console: Console, *, samples: int = 3) -> None:
    """Verdict first, then the numbers, the gates, and a few responses before and after."""
    print_verdict(report.verdict, report.reason, console)
    console.print(_build_numbers(report))
    print_gates(report.gates, console)
    if report.samples:
        console.print()
        console.print(_build_samples(_choose_samples(report.samples, samples)))


def print_verdict(verdict: str, reason: str, console: Console) -> None:
    """The verdict and why."""
    words, style = _VERDICT_WORDS.get(verdict, (clean(verdict), "bold"))
    console.print()
    console.print(Text(f"Verdict: {words}", style=style))
    if reason:
        console.print(Text(clean(reason)))
    console.print()


def print_gates(gates: list[Gate], console: Console) -> None:
    """The gates, where there are any."""
    if gates:
        console.print()
        console.print(_build_gates(gates))


def _build_numbers(report: ReportSummary) -> Table:
    """What was measured, before and after."""
    table = Table("", "before", "after", "", title="What changed", title_justify="left")
    for behaviour in report.behaviours:
        metric = clean(behaviour.metric.replace("_", " "))
        better = clean(behaviour.direction.replace("_", " "))
        label = f"{clean(behaviour.name)}: {metric}{f' ({better})' * bool(better)}"
        if (effect := behaviour.held_out) is None:
            table.add_row(f"{label}, held-out prompts", "-", "-", "not measured")
        else:
            count = f" ({effect.n})" if effect.n is not None else ""
            table.add_row(f"{label}, held-out prompts{count}", *_effect_cells(effect))
        if (control := behaviour.random_control) is not None:
            draws = f" ({control.draws} draws)" if control.draws else ""
            table.add_row(f"the same, a random selection instead{draws}", *_effect_cells(control))
    if report.damage is not None:
        _add_damage(table, report.damage)
    if (patch := report.patch) is not None:
        share = f"{patch.components / patch.of:.3%} of all" if patch.of else ""
        pruned = f"{patch.components} of {patch.of}"
        table.add_row(f"{clean(patch.granularity)}s pruned", "0", pruned, share)
    else:
        table.add_row("components pruned", "0", "0", "no patch")
    return table


def _add_damage(table: Table, damage: _Damage) -> None:
    """What the correction cost on ordinary text."""
    if (perplexity := damage.perplexity) is not None:
        change = perplexity.after / perplexity.before - 1 if perplexity.before else 0.0
        table.add_row(
            f"perplexity ({clean(perplexity.corpus)})",
            f"{perplexity.before:.2f}",
            f"{perplexity.after:.2f}",
            f"{change:+.2%}",
        )
    if (kl := damage.kl) is not None:
        table.add_row("KL from the base model", "", f"{kl.mean:.4f}", "nats a token")


def _effect_cells(effect: _Effect) -> tuple[str, str, str]:
    """Before, after, and the change with its interval."""
    change = f"{effect.after - effect.before:+.3f}"
    if effect.ci_low is not None and effect.ci_high is not None:
        change += f" (95 % interval {effect.ci_low:+.3f} to {effect.ci_high:+.3f})"
    return f"{effect.before:.3f}", f"{effect.after:.3f}", change


def _build_gates(gates: list[Gate]) -> Table:
    """Each gate with its limit, its value and whether it is met."""
    table = Table("gate", "limit", "value", "", title="Gates", title_justify="left")
    for gate in gates:
        outcome = Text("pass", style="green") if gate.passed else Text("FAIL", style="bold red")
        value = "not measured" if gate.value is None else f"{gate.value:.4g}"
        table.add_row(clean(gate.sentence), f"{gate.limit:.4g}", value, outcome)
    return table


def _choose_samples(samples: list[_Sample], count: int) -> list[_Sample]:
    """A few samples, held-out ones first, in the report's order."""
    return sorted(samples, key=lambda sample: sample.split != "held_out")[:count]


def _build_samples(samples: list[_Sample]) -> Table:
    """Prompts with the response before and after, side by side."""
    table = Table(title="Before and after", title_justify="left", show_lines=True, expand=True)
    for name, ratio in (("prompt", 2), ("before", 3), ("after", 3)):
        table.add_column(name, ratio=ratio, overflow="fold")
    for sample in samples:
        table.add_row(
            _shorten(sample.prompt),
            f"{_shorten(sample.before)}\n[{sample.metric_before:.2f}]",
            f"{_shorten(sample.after)}\n[{sample.metric_after:.2f}]",
        )
    return table


def _shorten(text: str) -> str:
    """One paragraph of bounded length, safe to print."""
    return textwrap.shorten(clean(text), _MAX_SAMPLE_CHARACTERS, placeholder=" …")
