"""A report as a short Markdown comment on a pull request, which a pipeline keeps up to date.

Models' responses and names given by others are untrusted. They are put into code blocks that they
cannot close, or escaped. So they can neither mention people, nor add links, nor imitate the
comment's first line, by which the next run finds it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from excise.names import GateOutcome, JobKind, Verdict
from excise.plurals import count_noun
from excise.reports.common import ModelIdentity
from excise.reports.correction import CorrectionReport
from excise.reports.gate_run import GateExample, GateReport
from excise.reports.gates import GateResult
from excise.reports.reading import Report
from excise.reports.text import (
    code_span,
    escape_markdown,
    fenced,
    format_compact,
    sentence,
    shorten,
)
from excise.reports.wording import SIGNS, describe_values

MOST_CHARACTERS = 60_000
"""Longest comment; GitHub refuses more than 65,536 characters."""

MOST_GATES = 30
"""Largest number of gates in each table; the report lists all. Chosen by hand."""

MOST_EXAMPLES = 5
"""Largest number of prompts whose responses are shown. Chosen by hand."""

RESPONSE_CHARACTERS = 600
"""Characters shown of a prompt, response or sentence; the report has all of it. Chosen by hand."""

NAME_CHARACTERS = 100
"""Characters shown of the name of a gate, checkpoint or link, or of a unit. Chosen by hand."""

HASH_CHARACTERS = 12
"""Characters shown of a checkpoint's hash."""

MOST_LINKS = 10
"""Largest number of links. Chosen by hand."""

_ASIDE = 3000
"""Characters kept for headings, and for what says how much is left out. Chosen by hand; they take
less than 1,000."""

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_URL = re.compile(r"https?://[A-Za-z0-9._~:/?#@!$&'*+,;=%-]{1,1000}")
_HEADLINES = {
    Verdict.PASSED: "✅ Excise: the correction passed",
    Verdict.REJECTED: "❌ Excise: the correction was rejected",
    Verdict.NO_EFFECT: "❌ Excise: the correction has no effect",
}

Clean = Callable[[str], str]
"""Removes secrets from a text."""


@dataclass(frozen=True)
class CommentOptions:
    """Identifier, links and content of a comment. Raises `ValueError` for what breaks Markdown."""

    identifier: str = "excise"
    """Distinguishes this pipeline's comment from others on the same pull request."""
    links: tuple[tuple[str, str], ...] = ()
    """Name and address of each link."""
    shows_responses: bool = True
    """Whether models' responses are shown (folded)."""

    def __post_init__(self) -> None:
        if not IDENTIFIER.fullmatch(self.identifier):
            raise ValueError(
                "the comment's id must be 1 to 64 letters, digits, dots, dashes or underscores"
            )
        if len(self.links) > MOST_LINKS:
            raise ValueError(f"a comment has at most {MOST_LINKS} links, not {len(self.links)}")
        for name, url in self.links:
            if not name.strip() or not _URL.fullmatch(url):
                raise ValueError(
                    f"the link {name[:64]!r} needs a name and an http or https address"
                )

    @property
    def marker(self) -> str:
        """The comment's first line, which readers do not see and the next run searches for."""
        return f"<!-- excise-comment:{self.identifier} -->"


def render_comment(report: Report, options: CommentOptions, clean: Clean = str) -> str:
    """Return the comment. `clean` is applied to all text written by models or other people.

    It has at most `MOST_CHARACTERS`: the gates that are not met have room first, then what stands
    around them, then responses; what does not fit is counted.
    """
    run = report if isinstance(report, GateReport) else None
    headline = f"### {_find_headline(report, clean)}"
    reason = "" if isinstance(report, GateReport) else _tell(report.reason, clean)
    count = _count_gates(report.gates)
    tail = _render_end(report, options, clean)
    fixed = (options.marker, headline, reason, count, tail)
    room = MOST_CHARACTERS - _ASIDE - sum(map(len, fixed))
    # Gates that are clearly not met come first, then those that chance may have decided.
    unmet = sorted((gate for gate in report.gates if not gate.is_met), key=lambda own: own.is_close)
    table = _render_unmet(unmet, clean, room)
    room -= len(table)
    notes = _render_notes(run.notes, clean, room) if run else ""
    room -= len(notes)
    close = _say_what_is_close(unmet, clean, room)
    room -= len(close)
    comparison = _render_comparison(run, clean, room) if run else ""
    room -= len(comparison)
    met = _render_met([gate for gate in report.gates if gate.is_met], clean, room)
    room -= len(met)
    examples = _list_examples(report) if options.shows_responses else []
    shown = _render_examples(examples, clean, room)
    judged = (count, table, close, met, comparison, shown, tail)
    return _join(options.marker, headline, reason, notes, *judged) + "\n"


def render_no_verdict(options: CommentOptions) -> str:
    """Return the comment on a run that ended before there was a verdict."""
    text = _join(
        options.marker,
        "### ⚠️ Excise: no verdict",
        "The run ended with an error before anything was judged; its log says why. An earlier "
        "verdict does not hold for this state.",
        _render_links(options),
    )
    return f"{text}\n"


def _render_notes(notes: Sequence[str], clean: Clean, room: int) -> str:
    """Return the notes that fit into `room` characters, a paragraph each."""
    shown = _fit((_tell(sentence(note), clean) for note in notes), room)
    return _join(*shown, _count_left(len(notes) - len(shown), "note"))


def _find_headline(report: Report, clean: Clean) -> str:
    if not isinstance(report, GateReport):
        kind = JobKind.CORRECTION if isinstance(report, CorrectionReport) else report.kind
        headline = _HEADLINES[report.verdict].replace("correction", kind.value)
        return f"{headline}: {_name(report.model.id, clean)}"
    names = f"{_name(report.model.id, clean)} against {_name(report.against.id, clean)}"
    if report.outcome is GateOutcome.PASSED:
        return f"✅ Excise: every gate is met: {names}"
    return f"❌ Excise: gates not met: {names}"


def _count_gates(gates: Sequence[GateResult]) -> str:
    """Return how many gates are met, or are not."""
    unmet = sum(not gate.is_met for gate in gates)
    if unmet:
        return f"{unmet} of {len(gates)} gates are not met."
    return _count_met(len(gates)) if gates else ""


def _count_met(count: int) -> str:
    return "The only gate is met." if count == 1 else f"All {count} gates are met."


def _render_unmet(gates: Sequence[GateResult], clean: Clean, room: int) -> str:
    """Return a table of these gates, which are not met."""
    if not gates:
        return ""
    rows = (
        _render_row(_describe_gate(gate, clean), gate, clean, _tell(gate.remedy or "", clean))
        for gate in gates[:MOST_GATES]
    )
    head = (
        "| Gate | Before | After | Value (95 %) | Limit | What to do |",
        "|:--|--:|--:|--:|--:|:--|",
    )
    return _render_table(head, _fit(rows, room), len(gates))


def _say_what_is_close(gates: Sequence[GateResult], clean: Clean, room: int) -> str:
    """Return which of these gates would possibly be met with other prompts of the same kind."""
    names = [_name(gate.name, clean) for gate in gates if gate.is_close]
    if not names:
        return ""
    return (
        f"The limit lies within the 95 % interval of {_list_fitting(names, room)}: chance may have "
        "decided, and more prompts make the interval narrower."
    )


def _render_met(gates: Sequence[GateResult], clean: Clean, room: int) -> str:
    """Return a folded table of gates that are met."""
    if not gates:
        return ""
    rows = (_render_row(_name(own.name, clean), own, clean) for own in gates[:MOST_GATES])
    head = ("| Gate | Before | After | Value (95 %) | Limit |", "|:--|--:|--:|--:|--:|")
    table = _render_table(head, _fit(rows, room), len(gates))
    count = "1 gate that is met" if len(gates) == 1 else f"{len(gates)} gates that are met"
    return f"<details>\n<summary>{count}</summary>\n\n{table}\n\n</details>"


def _render_table(head: Sequence[str], rows: Sequence[str], count: int) -> str:
    """Return a table, and below it how many of the `count` gates have no row."""
    left = _count_left(count - len(rows))
    more = ["", left] if left else []
    return "\n".join([*head, *rows, *more])


def _render_row(name: str, gate: GateResult, clean: Clean, *more: str) -> str:
    cells = (
        name,
        "–" if gate.before is None else format_compact(gate.before),
        "–" if gate.after is None else format_compact(gate.after),
        _describe_value(gate, clean),
        _describe_limit(gate, clean),
        *more,
    )
    return f"| {' | '.join(cells)} |"


def _describe_gate(gate: GateResult, clean: Clean) -> str:
    words = [gate.sentence, gate.note or ""]
    about = " ".join(_tell(sentence(text), clean) for text in words if text)
    return f"{_name(gate.name, clean)} {about}"


def _describe_value(gate: GateResult, clean: Clean) -> str:
    if gate.value is None:
        return f"not measured: {_tell(gate.unmeasured or 'no reason was given', clean)}"
    if gate.ci_low is None or gate.ci_high is None:
        return format_compact(gate.value)
    interval = f"({format_compact(gate.ci_low)} … {format_compact(gate.ci_high)})"
    return f"{format_compact(gate.value)} {interval}"


def _describe_limit(gate: GateResult, clean: Clean) -> str:
    sign = "" if gate.bound is None else f"{SIGNS[gate.bound]} "
    unit = f" {_tell(gate.unit, clean, NAME_CHARACTERS)}" if gate.unit else ""
    return f"{sign}{format_compact(gate.limit)}{unit}"


def _render_comparison(report: GateReport, clean: Clean, room: int) -> str:
    """Return what is clearly worse or better than in the earlier run, if there is one."""
    if (found := report.comparison) is None:
        return ""
    beside = f"Beside the earlier run on {_name(found.model.id, clean)}"
    if found.obstacle is not None:
        return f"{beside}: {_tell(found.obstacle, clean)}."
    clear = [change for change in found.changes if change.is_clear]
    told = [
        f"{_name(change.name, clean)} {change.trend} ({describe_values(change)})"
        for change in clear
    ]
    caution = f" {sentence(_tell(found.caution, clean))}" if found.caution else ""
    listed = _list_fitting(told, room - len(beside) - len(caution))
    return f"{beside}: {listed or 'no figure is clearly better or worse'}.{caution}"


def _list_examples(report: Report) -> list[GateExample]:
    """Return prompts with responses before and after: those of unmet gates, or samples."""
    if isinstance(report, GateReport):
        return report.examples[:MOST_EXAMPLES]
    if not isinstance(report, CorrectionReport):
        return []
    return [
        GateExample(
            behaviour=sample.behaviour,
            prompt=sample.prompt,
            before=(sample.before,),
            after=(sample.after,),
            shown=int(sample.undesired_after),
        )
        for sample in report.samples[:MOST_EXAMPLES]
    ]


def _render_examples(examples: Sequence[GateExample], clean: Clean, room: int) -> str:
    """Return the examples that fit into `room` characters, folded."""
    if not examples:
        return ""
    rendered = _fit((_render_example(example, clean) for example in examples), room)
    left = _count_left(len(examples) - len(rendered), "prompt")
    if not rendered:
        return left
    count = count_noun(len(rendered), "prompt")
    summary = f"<summary>{count}, and what was answered before and after; may offend</summary>"
    body = _join(*rendered, left)
    return f"<details>\n{summary}\n\n{body}\n\n</details>"


def _render_example(example: GateExample, clean: Clean) -> str:
    def show(text: str) -> str:
        return fenced(shorten(clean(text), RESPONSE_CHARACTERS))

    parts = [
        f"**{_tell(example.behaviour, clean, NAME_CHARACTERS)}**",
        show(example.prompt),
        "Before:",
    ]
    parts += [show(text) for text in example.before[:1]]
    parts += ["After:", *(show(text) for text in example.after[:1])]
    return "\n\n".join(parts)


def _fit(pieces: Iterable[str], room: int) -> list[str]:
    """Return the first of the pieces that fit into `room` characters, each as a paragraph."""
    shown = []
    for piece in pieces:
        room -= len(piece) + len("\n\n")
        if room < 0:
            break
        shown.append(piece)
    return shown


def _list_fitting(texts: Sequence[str], room: int) -> str:
    """Return the first of the texts that fit into `room`, in a row, and how many more there are."""
    shown = _fit(texts[:MOST_GATES], room)
    left = len(texts) - len(shown)
    row = ", ".join(shown)
    if not left:
        return row
    return f"{row} and {left} more" if row else f"{left} that the report lists"


def _count_left(count: int, noun: str = "") -> str:
    """Return that so many more are in the report; nothing for none."""
    if not count:
        return ""
    more = count_noun(count, f"more {noun}") if noun else f"{count} more"
    return f"And {more}, which the report lists."


def _name(text: str, clean: Clean) -> str:
    """Return a name as code, cut to `NAME_CHARACTERS`."""
    return code_span(shorten(clean(text), NAME_CHARACTERS))


def _tell(text: str, clean: Clean, most: int = RESPONSE_CHARACTERS) -> str:
    """Return the text as literal Markdown, cut to `most` characters before it is escaped.

    It is cleaned before it is cut: half of a secret is not recognised.
    """
    return escape_markdown(shorten(clean(text), most))


def _render_end(report: Report, options: CommentOptions, clean: Clean) -> str:
    """Return the links, and which checkpoints and versions the report is about."""
    links = _render_links(options)
    of = _identify(report.model, clean)
    if isinstance(report, GateReport):
        cached = ", measured by an earlier run" if report.is_against_cached else ""
        of += f", against {_identify(report.against, clean)}{cached}"
    version = _tell(report.versions.get("excise", "?"), clean, NAME_CHARACTERS)
    return _join(links, f"<sub>{of}; Excise {version}</sub>")


def _identify(model: ModelIdentity, clean: Clean) -> str:
    """Return a checkpoint's name, and how its hash begins."""
    return f"{_name(model.id, clean)} {escape_markdown(clean(model.sha256)[:HASH_CHARACTERS])}"


def _render_links(options: CommentOptions) -> str:
    return " · ".join(
        f"[{_tell(name, str, NAME_CHARACTERS)}](<{url}>)" for name, url in options.links
    )


def _join(*parts: str) -> str:
    """Return the parts that are not empty as paragraphs."""
    return "\n\n".join(filter(None, parts))
