"""A correction's report as tables a person understands."""

from __future__ import annotations

import textwrap
from typing import Literal

from pydantic import BaseModel, Field, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from excise.cli.ability_summary import print_abilities
from excise.cli.output import CommandError, clean
from excise.reports.abilities import Ability

_VERDICT_WORDS = {
    "passed": ("PASSED", "bold green"),
    "rejected": ("REJECTED", "bold red"),
    "no_effect": ("NO EFFECT", "bold yellow"),
}
_MAX_SAMPLE_CHARACTERS = 420
_OPEN_KINDS = frozenset({"repetition"})
"""Kinds of behaviour whose texts are printed; others may hold insults, or names that leaked."""
_OPEN_WORD_KINDS = _OPEN_KINDS | {"phrase"}
"""Kinds whose few left or new words are printed: they lie around those that the job names."""
_MEASURES = {
    "share": "share of responses",
    "any_share": "at least one response",
    "expected_worst": "expected worst score",
    "mean_score": "mean score",
}


class _Effect(BaseModel):
    before: float
    after: float
    ci_low: float | None = None
    ci_high: float | None = None
    n: int | None = None
    draws: int | None = None


class _ControlledEffect(BaseModel):
    value: float
    ci_low: float
    ci_high: float


class _Measure(BaseModel):
    name: str
    held_out: _Effect | None = None
    random_control: _Effect | None = None
    effect: _ControlledEffect | None = None
    alone: _Effect | None = None


class _Evaluator(BaseModel):
    evaluator: str
    measures: list[_Measure]


class _Behaviour(BaseModel):
    name: str
    kind: str = ""
    headline: str
    evaluators: list[_Evaluator]


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


class Gate(BaseModel):
    """One limit of a report against its measured value."""

    sentence: str
    limit: float
    value: float | None
    passed: bool
    unmeasured: str | None = None
    remedy: str | None = None
    note: str | None = None

    @property
    def is_met(self) -> bool:
        """Whether it was measured and met; what was not measured is not met."""
        return self.passed and self.value is not None


class _Sample(BaseModel):
    behaviour: str
    prompt: str
    before: str
    after: str
    split: str = ""
    scores_before: dict[str, float]
    scores_after: dict[str, float]


class _Leftover(BaseModel):
    words: str
    before: int
    after: int


class _Leftovers(BaseModel):
    behaviour: str
    responses: int
    left: list[_Leftover] = Field(default_factory=list)
    rose: list[_Leftover] = Field(default_factory=list)
    pattern: str
    advice: str
    samples: list[_Sample] = Field(default_factory=list)


class ReportSummary(BaseModel):
    """The parts of report.json that the summary shows; newer fields are passed over."""

    schema_version: Literal[2, 3]
    """Reports of version 2 say the raw change alone."""
    verdict: str
    reason: str = ""
    behaviours: list[_Behaviour] = Field(default_factory=list)
    damage: _Damage | None = None
    patch: _Patch | None = None
    gates: list[Gate] = Field(default_factory=list)
    advice: list[str] = Field(default_factory=list)
    leftovers: list[_Leftovers] = Field(default_factory=list)
    abilities: list[Ability] = Field(default_factory=list)
    samples: list[_Sample] = Field(default_factory=list)


def parse_report(content: bytes) -> ReportSummary:
    """The report in `content`. Raises `CommandError` if it is none."""
    try:
        return ReportSummary.model_validate_json(content)
    except ValidationError:
        raise CommandError("report.json is not a report of a version known here.") from None


def print_summary(report: ReportSummary, console: Console, *, samples: int = 2) -> None:
    """Verdict first, then the numbers, the gates that failed, and a few responses.

    Responses are printed of behaviours alone whose texts cannot offend.
    """
    print_verdict(report.verdict, report.reason, console)
    console.print(_build_numbers(report))
    print_abilities(report.abilities, console)
    print_failed_gates(report.gates, console)
    for text in report.advice:
        console.print()
        console.print(Text(clean(text)))
    kinds = {behaviour.name: behaviour.kind for behaviour in report.behaviours}
    for found in report.leftovers:
        _print_leftovers(found, kinds.get(found.behaviour, ""), console)
    open_names = {name for name, kind in kinds.items() if kind in _OPEN_KINDS}
    shown = _choose_samples([s for s in report.samples if s.behaviour in open_names], samples)
    if shown:
        console.print()
        console.print(_build_samples(shown))
    if len(shown) < len(report.samples):
        console.print("More responses before and after are in report.html and report.md.")


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
        console.print(_build_gates(gates, "Gates"))


def print_failed_gates(gates: list[Gate], console: Console) -> None:
    """How many gates were met, and those that were not."""
    if not gates:
        return
    failed = [gate for gate in gates if not gate.is_met]
    console.print()
    console.print(f"Gates: {len(gates) - len(failed)} of {len(gates)} met.")
    if failed:
        console.print(_build_gates(failed, "Gates not met"))


def _print_leftovers(found: _Leftovers, kind: str, console: Console) -> None:
    """What is left of a behaviour and what came instead, with responses where none may offend."""
    console.print()
    if kind not in _OPEN_WORD_KINDS:
        count = len(found.left) + len(found.rose)
        most = max((one.after for one in [*found.left, *found.rose]), default=0)
        text = (
            f"{found.behaviour}: {count} runs of words are left, or came instead, in up to {most} "
            f"of {found.responses} held-out responses. They may offend: see report.html."
        )
        console.print(Text(clean(text)))
        return
    heading = f"Left of {clean(found.behaviour)}, and come instead ({found.responses} responses)"
    table = Table("", "words", "before", "after", title=heading, title_justify="left")
    for label, rows in (("left", found.left), ("came instead", found.rose)):
        for row in rows:
            table.add_row(label, Text(clean(row.words)), str(row.before), str(row.after))
    console.print(table)
    console.print(Text(f"{clean(found.advice)}: {clean(found.pattern)}"))
    if found.samples and kind in _OPEN_KINDS:
        console.print(_build_samples(found.samples))


def _build_numbers(report: ReportSummary) -> Table:
    """What was measured, before and after."""
    table = Table("", "before", "after", "", title="What changed", title_justify="left")
    for behaviour in report.behaviours:
        for evaluator in behaviour.evaluators:
            _add_headline(table, behaviour, evaluator)
    if report.damage is not None:
        _add_damage(table, report.damage)
    if (patch := report.patch) is not None:
        share = f"{patch.components / patch.of:.3%} of all" if patch.of else ""
        pruned = f"{patch.components} of {patch.of}"
        table.add_row(f"{clean(patch.granularity)}s pruned", "0", pruned, share)
    else:
        table.add_row("components pruned", "0", "0", "no patch")
    return table


def _add_headline(table: Table, behaviour: _Behaviour, evaluator: _Evaluator) -> None:
    """The figure of a behaviour that must improve, by one evaluator."""
    for measure in evaluator.measures:
        if measure.name == behaviour.headline:
            figure = _MEASURES.get(measure.name, clean(measure.name))
            label = f"{clean(behaviour.name)}: {figure}, {clean(evaluator.evaluator)}"
            _add_measure(table, label, measure)


def _add_measure(table: Table, label: str, measure: _Measure) -> None:
    """One headline figure by one evaluator, beside chance and, of several behaviours, alone."""
    if (effect := measure.held_out) is None:
        table.add_row(f"{label}, held-out prompts", "-", "-", "not measured")
    else:
        count = f" ({effect.n})" if effect.n is not None else ""
        table.add_row(f"{label}, held-out prompts{count}", *_effect_cells(effect))
    if (control := measure.random_control) is not None:
        draws = f" ({control.draws} draws)" if control.draws else ""
        table.add_row(f"  the same, a random selection instead{draws}", *_effect_cells(control))
    if (own := measure.effect) is not None:
        change = f"{own.value:+.3f} (95 % interval {own.ci_low:+.3f} to {own.ci_high:+.3f})"
        table.add_row("  effect beyond the random selection", "", "", change)
    if measure.alone is not None:
        table.add_row("  the same, this behaviour alone", *_effect_cells(measure.alone))


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


def _build_gates(gates: list[Gate], heading: str) -> Table:
    """Each gate with its limit, its value and whether it is met."""
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
            f"{_shorten(sample.before)}\n{_list_scores(sample.scores_before)}",
            f"{_shorten(sample.after)}\n{_list_scores(sample.scores_after)}",
        )
    return table


def _list_scores(scores: dict[str, float]) -> str:
    """The scores in the evaluators' order."""
    return f"[{', '.join(f'{score:.2f}' for score in scores.values())}]"


def _shorten(text: str) -> str:
    """One paragraph of bounded length, safe to print."""
    return textwrap.shorten(clean(text), _MAX_SAMPLE_CHARACTERS, placeholder=" …")
