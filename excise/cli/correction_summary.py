"""Summary of a correction's report at the terminal, as tables."""

from __future__ import annotations

import textwrap

from rich.console import Console
from rich.table import Table
from rich.text import Text

from excise.cli.ability_summary import print_abilities
from excise.cli.output import clean
from excise.cli.summary_parts import print_failed_gates, print_verdict
from excise.cli.tables import print_table
from excise.names import BehaviourKind, MeasureName, Split
from excise.reports.correction import (
    BehaviourEffect,
    BehaviourLeftovers,
    CorrectionReport,
    Damage,
    EvaluatorEffect,
    HeldOutEffect,
    Measure,
    Sample,
)
from excise.reports.token_limits import describe_token_limits

SHOWN_SAMPLES = 2
"""Largest number of prompts whose responses are printed. Chosen by hand."""

_MAX_SAMPLE_CHARACTERS = 420
_OPEN_KINDS = frozenset({BehaviourKind.REPETITION})
"""Kinds of behaviour whose texts are printed; others may contain insults or leaked names."""

_OPEN_WORD_KINDS = _OPEN_KINDS | {BehaviourKind.PHRASE}
"""Kinds whose few remaining or new words are printed; these resemble words that the job names."""
_MEASURES = {
    MeasureName.SHARE: "share of responses",
    MeasureName.ANY_SHARE: "at least one response",
    MeasureName.EXPECTED_WORST: "expected worst score",
    MeasureName.MEAN_SCORE: "mean score",
}


def print_correction(report: CorrectionReport, console: Console) -> None:
    """Print the verdict, the figures, the failed gates, and a few responses.

    Responses are printed only for behaviours whose texts cannot offend.
    """
    print_verdict(report.verdict, report.reason, console)
    print_table(_build_numbers(report), console)
    print_abilities(report.abilities, console)
    print_failed_gates(report.gates, console)
    for line in describe_token_limits(report.token_limits):
        console.print(Text(clean(line)))
    for text in report.advice:
        console.print()
        console.print(Text(clean(text)))
    kinds = {behaviour.name: behaviour.kind for behaviour in report.behaviours}
    for found in report.leftovers:
        _print_leftovers(found, kinds.get(found.behaviour, ""), console)
    open_names = {name for name, kind in kinds.items() if kind in _OPEN_KINDS}
    shown = _choose_samples([s for s in report.samples if s.behaviour in open_names], SHOWN_SAMPLES)
    if shown:
        console.print()
        print_table(_build_samples(shown), console)
    if len(shown) < len(report.samples):
        console.print("More responses before and after are in report.html and report.md.")


def _print_leftovers(found: BehaviourLeftovers, kind: str, console: Console) -> None:
    """Print what is left of a behaviour and what replaced it, with responses if none may offend."""
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
    print_table(table, console)
    console.print(Text(f"{clean(found.advice)}: {clean(found.pattern)}"))
    if found.samples and kind in _OPEN_KINDS:
        print_table(_build_samples(found.samples), console)


def _build_numbers(report: CorrectionReport) -> Table:
    """Return a table of the figures before and after."""
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


def _add_headline(table: Table, behaviour: BehaviourEffect, evaluator: EvaluatorEffect) -> None:
    """Add an evaluator's figure for a behaviour that must improve."""
    for measure in evaluator.measures:
        if measure.name == behaviour.headline:
            figure = _MEASURES[measure.name]
            label = f"{clean(behaviour.name)}: {figure}, {clean(evaluator.evaluator)}"
            _add_measure(table, label, measure)


def _add_measure(table: Table, label: str, measure: Measure) -> None:
    """Add one evaluator's headline figure, with the figures of chance and the behaviour alone."""
    if (effect := measure.held_out) is None:
        table.add_row(f"{label}, held-out prompts", "-", "-", "not measured")
    else:
        table.add_row(f"{label}, held-out prompts ({effect.n})", *_effect_cells(effect))
    if (control := measure.random_control) is not None:
        label = f"  the same, a random selection instead ({control.draws} draws)"
        table.add_row(label, *_effect_cells(control))
    if (own := measure.effect) is not None:
        change = f"{own.value:+.3f} (95 % interval {own.ci_low:+.3f} to {own.ci_high:+.3f})"
        table.add_row("  effect beyond the random selection", "", "", change)
    if measure.alone is not None:
        table.add_row("  the same, this behaviour alone", *_effect_cells(measure.alone))


def _add_damage(table: Table, damage: Damage) -> None:
    """Add the rows on damage to ordinary text."""
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


def _effect_cells(effect: HeldOutEffect) -> tuple[str, str, str]:
    """Return the cells for before, after, and the change with its confidence interval."""
    interval = f"(95 % interval {effect.ci_low:+.3f} to {effect.ci_high:+.3f})"
    change = f"{effect.after - effect.before:+.3f} {interval}"
    return f"{effect.before:.3f}", f"{effect.after:.3f}", change


def _choose_samples(samples: list[Sample], count: int) -> list[Sample]:
    """Return a few samples in the report's order, held-out ones first."""
    return sorted(samples, key=lambda sample: sample.split is not Split.HELD_OUT)[:count]


def _build_samples(samples: list[Sample]) -> Table:
    """Return a table of prompts with the responses before and after, side by side."""
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
    """Return the scores, in the evaluators' order, as text."""
    return f"[{', '.join(f'{score:.2f}' for score in scores.values())}]"


def _shorten(text: str) -> str:
    """Return the text as one paragraph of bounded length, safe to print."""
    return textwrap.shorten(clean(text), _MAX_SAMPLE_CHARACTERS, placeholder=" …")
