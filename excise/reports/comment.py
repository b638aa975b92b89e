"""A report as a short Markdown comment on a pull request, which a pipeline keeps up to date.

Models' responses and names given by others are untrusted. They are put into code blocks that they
cannot close, or escaped. So they can neither mention people, nor add links, nor imitate the
comment's first line, by which the next run finds it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from excise.names import GateOutcome, JobKind, Verdict
from excise.plurals import count_noun
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
"""Characters shown of a prompt or response; the report has all of it. Chosen by hand."""

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_URL = re.compile(r"https?://[A-Za-z0-9._~:/?#@!$&'*+,;=%-]{1,1000}")
_HEADLINES = {
    Verdict.PASSED: "✅ Excise: the correction passed",
    Verdict.REJECTED: "❌ Excise: the correction was rejected",
    Verdict.NO_EFFECT: "❌ Excise: the correction has no effect",
}

_JOINER = "\N{WORD JOINER}"
"""Invisible character; after it, a name is not a mention and a line is not a GitLab command."""

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
    """Return the comment. `clean` is applied to all text written by models or other people."""
    head = _join(*_list_parts(report, options, clean))
    tail = _render_end(report, options, clean)
    examples = _list_examples(report) if options.shows_responses else []
    room = MOST_CHARACTERS - len(head) - len(tail)
    shown = _render_examples(examples, clean, room)
    return _join(head, shown, tail) + "\n"


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


def _list_parts(report: Report, options: CommentOptions, clean: Clean) -> Iterator[str]:
    yield options.marker
    yield f"### {_find_headline(report, clean)}"
    if not isinstance(report, GateReport):
        yield _escape(report.reason, clean)
    else:
        yield from (_escape(sentence(note), clean) for note in report.notes)
    yield _render_gates(report.gates, clean)
    if isinstance(report, GateReport):
        yield _render_comparison(report, clean)


def _find_headline(report: Report, clean: Clean) -> str:
    if not isinstance(report, GateReport):
        kind = JobKind.CORRECTION if isinstance(report, CorrectionReport) else report.kind
        headline = _HEADLINES[report.verdict].replace("correction", kind.value)
        return f"{headline}: {code_span(clean(report.model.id))}"
    names = f"{code_span(clean(report.model.id))} against {code_span(clean(report.against.id))}"
    if report.outcome is GateOutcome.PASSED:
        return f"✅ Excise: every gate is met: {names}"
    return f"❌ Excise: gates not met: {names}"


def _render_gates(gates: Sequence[GateResult], clean: Clean) -> str:
    """Return how many gates are met, a table of those that are not, and one of those that are.

    Gates that are clearly not met come first, then those that chance may have decided.
    """
    unmet = sorted((gate for gate in gates if not gate.is_met), key=lambda gate: gate.is_close)
    met = [gate for gate in gates if gate.is_met]
    if not gates:
        return ""
    return _join(
        f"{len(unmet)} of {len(gates)} gates are not met." if unmet else _count_met(len(met)),
        _render_unmet(unmet, clean),
        _say_what_is_close(unmet, clean),
        _render_met(met, clean),
    )


def _count_met(count: int) -> str:
    return "The only gate is met." if count == 1 else f"All {count} gates are met."


def _render_unmet(gates: Sequence[GateResult], clean: Clean) -> str:
    if not gates:
        return ""
    rows = []
    for gate in gates[:MOST_GATES]:
        remedy = _escape(shorten(gate.remedy or "", RESPONSE_CHARACTERS), clean)
        rows.append(_render_row(_describe_gate(gate, clean), gate, clean, remedy))
    head = (
        "| Gate | Before | After | Value (95 %) | Limit | What to do |",
        "|:--|--:|--:|--:|--:|:--|",
    )
    return _render_table(head, rows, len(gates))


def _say_what_is_close(gates: Sequence[GateResult], clean: Clean) -> str:
    """Return which of these gates would possibly be met with other prompts of the same kind."""
    names = [code_span(clean(gate.name)) for gate in gates if gate.is_close][:MOST_GATES]
    if not names:
        return ""
    return (
        f"The limit lies within the 95 % interval of {', '.join(names)}: chance may have decided, "
        "and more prompts make the interval narrower."
    )


def _render_met(gates: Sequence[GateResult], clean: Clean) -> str:
    """Return a folded table of gates that are met."""
    if not gates:
        return ""
    rows = [_render_row(code_span(clean(own.name)), own, clean) for own in gates[:MOST_GATES]]
    head = ("| Gate | Before | After | Value (95 %) | Limit |", "|:--|--:|--:|--:|--:|")
    table = _render_table(head, rows, len(gates))
    count = "1 gate that is met" if len(gates) == 1 else f"{len(gates)} gates that are met"
    return f"<details>\n<summary>{count}</summary>\n\n{table}\n\n</details>"


def _render_table(head: Sequence[str], rows: Sequence[str], count: int) -> str:
    """Return a table, and below it how many of the `count` gates have no row."""
    left = count - len(rows)
    more = ["", f"And {left} more, which the report lists."] if left else []
    return "\n".join([*head, *rows, *more])


def _render_row(name: str, gate: GateResult, clean: Clean, *more: str) -> str:
    cells = (
        name,
        "–" if gate.before is None else format_compact(gate.before),
        "–" if gate.after is None else format_compact(gate.after),
        _describe_value(gate, clean),
        _describe_limit(gate),
        *more,
    )
    return f"| {' | '.join(cells)} |"


def _describe_gate(gate: GateResult, clean: Clean) -> str:
    words = [gate.sentence, gate.note or ""]
    about = " ".join(sentence(clean(shorten(text, RESPONSE_CHARACTERS))) for text in words if text)
    return f"{code_span(clean(gate.name))} {_escape(about, str)}"


def _describe_value(gate: GateResult, clean: Clean) -> str:
    if gate.value is None:
        reason = gate.unmeasured or "no reason was given"
        return f"not measured: {_escape(shorten(reason, RESPONSE_CHARACTERS), clean)}"
    if gate.ci_low is None or gate.ci_high is None:
        return format_compact(gate.value)
    interval = f"({format_compact(gate.ci_low)} … {format_compact(gate.ci_high)})"
    return f"{format_compact(gate.value)} {interval}"


def _describe_limit(gate: GateResult) -> str:
    sign = "" if gate.bound is None else f"{SIGNS[gate.bound]} "
    unit = f" {escape_markdown(gate.unit)}" if gate.unit else ""
    return f"{sign}{format_compact(gate.limit)}{unit}"


def _render_comparison(report: GateReport, clean: Clean) -> str:
    """Return what is clearly worse or better than in the earlier run, if there is one."""
    if (found := report.comparison) is None:
        return ""
    beside = f"Beside the earlier run on {code_span(clean(found.model.id))}"
    if found.obstacle is not None:
        return f"{beside}: {_escape(found.obstacle, clean)}."
    clear = [change for change in found.changes if change.is_clear]
    told = [
        f"{code_span(clean(change.name))} {change.trend} ({describe_values(change)})"
        for change in clear[:MOST_GATES]
    ]
    more = f" and {len(clear) - MOST_GATES} more" if len(clear) > MOST_GATES else ""
    caution = f" {sentence(_escape(found.caution, clean))}" if found.caution else ""
    return f"{beside}: {', '.join(told) or 'no figure is clearly better or worse'}{more}.{caution}"


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
    rendered, left = [], room - 1000  # for the text around them
    for example in examples:
        text = _render_example(example, clean)
        left -= len(text)
        if left < 0:
            break
        rendered.append(text)
    if not rendered:
        return ""
    count = count_noun(len(rendered), "prompt")
    summary = f"<summary>{count}, and what was answered before and after; may offend</summary>"
    body = "\n\n".join(rendered)
    return f"<details>\n{summary}\n\n{body}\n\n</details>"


def _render_example(example: GateExample, clean: Clean) -> str:
    def show(text: str) -> str:
        return fenced(shorten(clean(text), RESPONSE_CHARACTERS))

    parts = [f"**{_escape(example.behaviour, clean)}**", show(example.prompt), "Before:"]
    parts += [show(text) for text in example.before[:1]]
    parts += ["After:", *(show(text) for text in example.after[:1])]
    return "\n\n".join(parts)


def _escape(text: str, clean: Clean) -> str:
    """Return the text as literal Markdown without mentions, links and commands."""
    literal = escape_markdown(clean(text)).replace("@", f"@{_JOINER}").replace("#", f"#{_JOINER}")
    return f"{_JOINER}{literal}" if literal.startswith("/") else literal


def _render_end(report: Report, options: CommentOptions, clean: Clean) -> str:
    """Return the links, and which checkpoints and versions the report is about."""
    links = _render_links(options)
    of = f"{code_span(clean(report.model.id))} {report.model.sha256[:12]}"
    if isinstance(report, GateReport):
        cached = ", measured by an earlier run" if report.is_against_cached else ""
        of += (
            f", against {code_span(clean(report.against.id))} {report.against.sha256[:12]}{cached}"
        )
    version = _escape(report.versions.get("excise", "?"), clean)
    return _join(links, f"<sub>{of}; Excise {version}</sub>")


def _render_links(options: CommentOptions) -> str:
    return " · ".join(f"[{_escape(name, str)}](<{url}>)" for name, url in options.links)


def _join(*parts: str) -> str:
    """Return the parts that are not empty as paragraphs."""
    return "\n\n".join(filter(None, parts))
