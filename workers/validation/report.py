"""The report of a correction, rendered as JSON, Markdown and one self-contained HTML page.

Everything here is pure: the same report gives the same bytes. Prompts and responses are
untrusted text; they reach a page escaped and with control characters made visible.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import json
import math
import re
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

import jinja2
from markupsafe import Markup

from workers.domain import BehaviourEffect, GateResult, Report, Sample, SearchStep

_TEMPLATES = Path(__file__).parent / "templates"
_METRIC_TITLES = {"response_uniqueness": "Response uniqueness (RUR)"}
_APPLY_COMMAND = """\
excise patch apply --base BASE_DIR --patch patch.safetensors --output CORRECTED_DIR"""
_REVERT_COMMAND = """\
excise patch revert --corrected CORRECTED_DIR --patch patch.safetensors --output BASE_DIR"""
_MINUS = "\N{MINUS SIGN}"
_WORST_SHOWN = 3
_BEST_SHOWN = 3
_DIFF_BUDGET = 4_000_000
_LONGEST_LOOP_WORDS = 100
_MARKDOWN_DIFF_COLUMNS = 92


class NonFiniteReportError(ValueError):
    """A figure of the report is NaN or infinite; measure it again, or leave it out as None."""


def render_json(report: Report) -> bytes:
    """The report as ASCII JSON: sorted, indented, one trailing newline; refuses NaN."""
    content = report.model_dump()
    _require_finite(content)
    return (json.dumps(content, sort_keys=True, indent=2, allow_nan=False) + "\n").encode("ascii")


def render_markdown(report: Report) -> str:
    """The report as GitHub-flavoured Markdown, without timings."""
    return _markdown_environment().get_template("report.md.j2").render(_context(report))


def render_html(report: Report) -> str:
    """The report as one HTML page that loads nothing and runs no script, without timings."""
    css = (_TEMPLATES / "report.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode("ascii")
    page = _html_environment().get_template("report.html.j2")
    return page.render(_context(report), css=Markup(css), css_sha256=digest)  # noqa: S704


def _require_finite(value: object, path: str = "report") -> None:
    """Raise NonFiniteReportError naming the first figure that is NaN or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise NonFiniteReportError(
            f"{path} is {value}; measure it again, or leave it out as None where that is allowed."
        )
    if isinstance(value, dict):
        for key, child in value.items():
            _require_finite(child, f"{path}.{key}")
    elif isinstance(value, list):
        for position, child in enumerate(value):
            _require_finite(child, f"{path}[{position}]")


# --- text -----------------------------------------------------------------------------------


def visible_text(text: str) -> str:
    """`text` with control, bidirectional, surrogate and private characters spelled out.

    Newlines, tabs and the two joiners that scripts and emoji need stay as they are.
    """
    return "".join(_visible_character(c) for c in text.replace("\r\n", "\n"))


def _visible_character(character: str) -> str:
    code = ord(character)
    if character in "\n\t\u200c\u200d":
        return character
    hidden = unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    return f"⟨U+{code:04X}⟩" if hidden or noncharacter else character


def escape_markdown(text: str) -> str:
    """`text` as one line of literal Markdown, also inside a table cell."""
    line = " ".join(visible_text(text).split())
    escaped = re.sub(r"([\\`*_\[\]<>#|~$&])", r"\\\1", line)
    return escaped.replace("://", r":\/\/").replace("www.", r"www\.")


def code_span(text: str) -> str:
    """`text` as a Markdown code span that also holds inside a table cell."""
    line = " ".join(visible_text(text).split()) or " "
    fence = "`" * (_longest_backtick_run(line) + 1)
    padding = " " if "`" in line else ""
    return f"{fence}{padding}{line}{padding}{fence}".replace("|", r"\|")


def fenced(text: str, language: str = "text") -> str:
    """`text` as a fenced block that nothing inside can close."""
    content = visible_text(text)
    fence = "`" * max(3, _longest_backtick_run(content) + 1)
    return f"{fence}{language}\n{content}\n{fence}"


def _longest_backtick_run(text: str) -> int:
    return max((len(run) for run in re.findall(r"`+", text)), default=0)


def format_number(value: float, digits: int = 3) -> str:
    """A number with a fixed count of decimals, thousands separated, a true minus sign."""
    text = f"{value:,.{digits}f}"
    return text.lstrip("-") if float(text.replace(",", "")) == 0 else text.replace("-", _MINUS)


def format_signed(value: float, digits: int = 3) -> str:
    """A change, with its sign; a change that rounds to zero has none."""
    text = format_number(value, digits)
    return f"+{text}" if value > 0 and text.strip("0.,") else text


def format_percent(fraction: float, digits: int = 2) -> str:
    """A relative change in percent, with its sign."""
    return f"{format_signed(100 * fraction, digits)}\u00a0%"


def format_compact(value: float) -> str:
    """A number of unknown size in at most four significant digits."""
    return f"{value:,.4g}".replace("-", _MINUS)


def title(identifier: str) -> str:
    """A metric's or behaviour's identifier as a reader would write it."""
    words = identifier.replace("_", " ").replace("held out", "held-out").strip()
    words = re.sub(r"\b(?:kl|rur)\b", lambda found: found[0].upper(), words)
    return _METRIC_TITLES.get(identifier, words[:1].upper() + words[1:])


def sentence(text: str) -> str:
    """`text` with a capital letter and a full stop."""
    stripped = text.strip()
    ending = "" if stripped.endswith((".", "!", "?")) else "."
    return stripped[:1].upper() + stripped[1:] + ending


# --- samples --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loop:
    """A phrase of `words` words that a response repeats `times` times in a row."""

    start: int
    words: int
    times: int
    end: int
    """Index after the last word that still belongs to the loop, a broken-off turn included."""

    def __str__(self) -> str:
        phrase = "one word" if self.words == 1 else f"a {self.words}-word phrase"
        return f"↻ {phrase}, {self.times} times in a row"


@dataclass(frozen=True)
class Span:
    """A stretch of a response: `turn` counts a loop's turns from 1, and is 0 outside loops."""

    text: str
    changed: bool
    turn: int


@dataclass(frozen=True)
class SampleView:
    """A sample with its gain (positive is better) and its two responses compared."""

    sample: Sample
    gain: float
    caution: str
    """Why this is a worst case; empty where it is none."""
    before: list[Span]
    after: list[Span]
    before_loop: Loop | None
    after_loop: Loop | None
    diff: str
    """The comparison as the body of a `diff` block."""


def _words(text: str) -> list[str]:
    """Words with the white space before them; an ideograph or kana is a word of its own."""
    wide = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
    return re.findall(rf"\s*(?:[{wide}]|[^\s{wide}]+)|\s+$", text)


def find_loops(words: Sequence[str]) -> list[Loop]:
    """Phrases said at least three times in a row, from left to right, the longest loop first."""
    loops: list[Loop] = []
    start = 0
    while start < len(words) - 2:
        loop = _loop_at(words, start)
        loops += [loop] if loop else []
        start = loop.end if loop else start + 1
    return loops


def _loop_at(words: Sequence[str], start: int) -> Loop | None:
    best: Loop | None = None
    for period in range(1, min(_LONGEST_LOOP_WORDS, (len(words) - start) // 3) + 1):
        end = start + period
        while end < len(words) and words[end] == words[end - period]:
            end += 1
        times = (end - start) // period
        if times >= 3 and end - start >= 4 and (best is None or end > best.end):
            best = Loop(start, period, times, end)
    return best


def _changed_words(before: list[str], after: list[str]) -> list[tuple[bool, slice, slice]]:
    """Runs of both word lists as (changed, before, after); lone common words count as changed."""
    if len(before) * len(after) > _DIFF_BUDGET:
        common = 0
        while common < min(len(before), len(after)) and before[common] == after[common]:
            common += 1
        blocks = [(0, 0, common)]
    else:
        matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
        blocks = [
            (b.a, b.b, b.size)
            for b in matcher.get_matching_blocks()
            if b.size >= 3 or (b.size and b.a == b.b == 0)
        ]
    runs: list[tuple[bool, slice, slice]] = []
    a = b = 0
    for block_a, block_b, size in [*blocks, (len(before), len(after), 0)]:
        if block_a > a or block_b > b:
            runs.append((True, slice(a, block_a), slice(b, block_b)))
        a, b = block_a + size, block_b + size
        if size:
            runs.append((False, slice(block_a, a), slice(block_b, b)))
    return runs


def _spans(words: list[str], changed: Sequence[bool], loops: list[Loop]) -> list[Span]:
    turns = [0] * len(words)
    for loop in loops:
        for position in range(loop.start, loop.end):
            turns[position] = 1 + (position - loop.start) // loop.words
    spans: list[Span] = []
    marked = zip(words, changed, turns, strict=True)
    for (was_changed, turn), run in groupby(marked, key=lambda item: item[1:]):
        text = "".join(word for word, _, _ in run)
        marked_text = text.lstrip()
        space = text[: len(text) - len(marked_text)]
        inside = bool(spans) and spans[-1].turn == turn
        spans += [Span(space, False, turn if inside else 0)] if space else []
        spans += [Span(marked_text, was_changed, turn)] if marked_text else []
    return spans


def _diff_lines(sign: str, words: list[str], starts: set[int], first: int) -> Iterator[str]:
    """`words` as wrapped lines of a `diff` block; every turn of a loop begins a new line."""
    text = "".join(
        "\n" + word.lstrip(" ") if first + offset in starts else word
        for offset, word in enumerate(words)
    )
    for line in text.removeprefix("\n").removesuffix("\n").split("\n"):
        for part in textwrap.wrap(line.strip(" "), _MARKDOWN_DIFF_COLUMNS) or [""]:
            yield f"{sign} {part}".rstrip()


def _turn_starts(words: list[str], loops: list[Loop]) -> set[int]:
    """Where a turn of a loop begins on a line that is already under way."""
    starts = (start for x in loops for start in range(x.start, x.end, x.words) if x.words > 2)
    return {start for start in starts if "\n" not in words[start]}


def _compare(sample: Sample, gain: float, caution: str) -> SampleView:
    before, after = _words(visible_text(sample.before)), _words(visible_text(sample.after))
    plain_before, plain_after = [w.strip() for w in before], [w.strip() for w in after]
    loops_before, loops_after = find_loops(plain_before), find_loops(plain_after)
    runs = _changed_words(plain_before, plain_after)
    starts_before, starts_after = (
        _turn_starts(before, loops_before),
        _turn_starts(after, loops_after),
    )
    lines: list[str] = []
    for changed, old, new in runs:
        if before[old]:
            sign = "-" if changed else " "
            lines += _diff_lines(sign, before[old], starts_before, old.start)
        if changed and after[new]:
            lines += _diff_lines("+", after[new], starts_after, new.start)
    return SampleView(
        sample=sample,
        gain=gain,
        caution=caution,
        before=_spans(before, [c for c, old, _ in runs for _ in before[old]], loops_before),
        after=_spans(after, [c for c, _, new in runs for _ in after[new]], loops_after),
        before_loop=_longest(loops_before),
        after_loop=_longest(loops_after),
        diff="\n".join(lines) or "  (both responses are empty)",
    )


def _longest(loops: list[Loop]) -> Loop | None:
    return max(loops, key=lambda loop: loop.end - loop.start, default=None)


def _caution(gain: float) -> str:
    if gain < 0:
        return "got worse"
    return "unchanged" if gain == 0 else "smallest gain"


@dataclass(frozen=True)
class SampleGroup:
    """Samples under one heading; only those that are not `folded` are open at first."""

    heading: str
    samples: list[SampleView]
    folded: bool = False


def _sample_groups(report: Report) -> list[SampleGroup]:
    """Held-out samples first: largest effects, worst cases, the rest; then the tuning split.

    Without a patch there is nothing to compare: the base model's responses, the worst first.
    """
    lower = report.behaviours[:1] and report.behaviours[0].direction == "lower_is_better"

    def gain(sample: Sample) -> float:
        return (sample.metric_before - sample.metric_after) * (1 if lower else -1)

    if report.patch is None:
        ranked = sorted(report.samples, key=lambda s: s.metric_before, reverse=bool(lower))
        views = [_compare(s.model_copy(update={"after": s.before}), 0.0, "") for s in ranked]
        return [SampleGroup("Closest to the behaviour first", views)] if views else []
    ranked = sorted(report.samples, key=gain, reverse=True)
    held_out = [s for s in ranked if s.split == "held_out"]
    worst_from = max(len(held_out) - _WORST_SHOWN, (len(held_out) + 1) // 2)
    best = [_compare(s, gain(s), "") for s in held_out[:worst_from]]
    worst = [_compare(s, gain(s), _caution(gain(s))) for s in reversed(held_out[worst_from:])]
    tune = [_compare(s, gain(s), "") for s in ranked if s.split == "tune"]
    rest = best[_BEST_SHOWN:]
    groups = [
        SampleGroup("Held-out prompts, largest effect first", best[:_BEST_SHOWN]),
        SampleGroup("Held-out prompts, worst cases", worst),
        SampleGroup(f"More held-out prompts ({len(rest)})", rest, folded=True),
        SampleGroup(f"Tuning prompts ({len(tune)}), used to choose the neurons", tune, folded=True),
    ]
    return [group for group in groups if group.samples]


# --- charts ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """A linear scale with round ticks."""

    low: float
    high: float
    ticks: list[float]
    digits: int

    def at(self, value: float, start: float, end: float, clipped: bool = True) -> float:
        """The coordinate of `value` between `start` and `end`, by default never beyond them."""
        share = (value - self.low) / (self.high - self.low)
        share = min(1.0, max(0.0, share)) if clipped else share
        return round(start + (end - start) * share, 2)


def build_axis(values: Sequence[float], intervals: int = 4) -> Axis:
    """An axis over `values` whose ticks are 1, 2 or 5 times a power of ten."""
    low, high = min(values), max(values)
    span = high - low
    if span <= 1e-9 * max(abs(low), abs(high), 1e-9):
        span = max(abs(high), 1e-9)
    magnitude = 10.0 ** math.floor(math.log10(span / intervals))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude * intervals >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = [round(step * position, digits + 2) for position in range(first, last + 1)]
    return Axis(ticks[0], ticks[-1], ticks, digits)


def _effect_axis(effect: BehaviourEffect) -> Axis:
    values = [0.0, effect.threshold, effect.tune.before, effect.tune.after]
    for measured in (effect.held_out, effect.random_control):
        if measured:
            values += [measured.before, measured.after]
            values += [measured.before + measured.ci_low, measured.before + measured.ci_high]
    if min(values) >= 0 and 0.5 <= max(values) <= 1:
        values.append(1.0)
    return build_axis(values, intervals=5)


@dataclass(frozen=True)
class DosePoint:
    """One search step as drawn; `x` is in [0, 1], on a logarithmic scale of the amount."""

    step: SearchStep
    x: float
    labelled: bool
    damage: float
    beyond: bool
    """True where the damage lies above the axis and is drawn at its edge."""
    damage_labelled: bool


@dataclass(frozen=True)
class DoseChart:
    """The dose-response plot: the tuning metric and the perplexity change over the amount."""

    points: list[DosePoint]
    metric_axis: Axis
    damage_axis: Axis
    """Perplexity change in %."""


def _dose_chart(report: Report) -> DoseChart | None:
    steps = sorted(report.search, key=lambda s: (s.components, s.tune_metric))
    if not steps:
        return None
    damages = [100 * s.perplexity_increase for s in steps]
    floor = min(0.0, *damages)
    allowed = [d for d, s in zip(damages, steps, strict=True) if s.within_budget]
    ceiling = max(damages)
    if allowed:  # keep the amounts that count readable beside ruinous ones
        ceiling = min(ceiling, floor + max(4 * (max(allowed) - floor), 1e-3 * (ceiling - floor)))
    axis = build_axis([floor, *(min(d, ceiling) for d in damages), ceiling], intervals=3)
    xs = _dose_positions([s.components for s in steps])
    labels = _spaced_labels(xs, [s.chosen for s in steps], gap=0.085)
    edge_xs = [x for x, damage in zip(xs, damages, strict=True) if damage > axis.high]
    edge_labels = _spaced_labels(edge_xs[::-1], [False] * len(edge_xs), gap=0.16)
    written = {x for x, label in zip(edge_xs[::-1], edge_labels, strict=True) if label}
    return DoseChart(
        points=[
            DosePoint(step, x, labelled, damage, damage > axis.high, x in written)
            for step, x, damage, labelled in zip(steps, xs, damages, labels, strict=True)
        ],
        metric_axis=build_axis([s.tune_metric for s in steps], intervals=3),
        damage_axis=axis,
    )


def _dose_positions(amounts: list[int]) -> list[float]:
    logs = [math.log1p(amount) for amount in amounts]
    span = logs[-1] - logs[0]
    return [(value - logs[0]) / span if span else 0.5 for value in logs]


def _spaced_labels(xs: list[float], chosen: list[bool], gap: float) -> list[bool]:
    """Which points have room for a label; the chosen one always has."""
    kept: list[float] = [x for x, is_chosen in zip(xs, chosen, strict=True) if is_chosen]
    labels = []
    for x, is_chosen in zip(xs, chosen, strict=True):
        free = all(abs(x - other) >= gap for other in kept)
        kept += [x] if free else []
        labels.append(free or is_chosen)
    return labels


@dataclass(frozen=True)
class LayerMap:
    """How many neurons were pruned in each layer, layers without any included."""

    layers: list[tuple[int, int]]
    elsewhere: int
    """Pruned neurons in modules whose name has no layer number."""
    axis: Axis


def layer_of(module: str) -> int | None:
    """The layer number in a module's name, as in `model.layers.12.mlp.down_proj`."""
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", module, re.ASCII)
    return int(found[1]) if found else None


def _layer_map(report: Report) -> LayerMap | None:
    if report.patch is None or not report.patch.modules:
        return None
    counts: Counter[int | None] = Counter()
    for module, indices in report.patch.modules.items():
        counts[layer_of(module)] += len(indices)
    numbered = [layer for layer in counts if layer is not None]
    layers = [(layer, counts[layer]) for layer in range(max(numbered, default=-1) + 1)]
    top = max([1, *(count for _, count in layers)])
    return LayerMap(layers, counts[None], build_axis([0, max(2, top)], intervals=3))


def _modules_in_order(report: Report) -> list[tuple[str, list[int]]]:
    """Modules with their pruned neurons, by layer number and not by the file's order."""
    modules = report.patch.modules if report.patch else {}
    numbered = ((layer_of(module), module) for module in modules)
    order = sorted((-1 if layer is None else layer, module) for layer, module in numbered)
    return [(module, sorted(modules[module])) for _, module in order]


# --- templates ------------------------------------------------------------------------------


def _is_met(gate: GateResult) -> bool:
    """Whether a gate was measured and met; what was not measured is not met."""
    return gate.passed and gate.value is not None


def _context(report: Report) -> dict[str, object]:
    _require_finite(report.model_dump())
    return {
        "report": report,
        "dose": _dose_chart(report),
        "layer_map": _layer_map(report),
        "modules": _modules_in_order(report),
        "sample_groups": _sample_groups(report),
        "effect_axis": _effect_axis,
        "apply_command": _APPLY_COMMAND,
        "revert_command": _REVERT_COMMAND,
    }


_FILTERS = {
    "num": format_number,
    "signed": format_signed,
    "percent": format_percent,
    "compact": format_compact,
    "title": title,
    "sentence": sentence,
}


@cache
def _html_environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: visible_text(value) if type(value) is str else value,
    )
    environment.filters.update(_FILTERS)
    environment.tests["met"] = _is_met
    return environment


@cache
def _markdown_environment() -> jinja2.Environment:
    """Every plain string is escaped for Markdown; what is Markdown already is Markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=False,  # noqa: S701 - HTML escaping is the wrong one; `finalize` escapes
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: (
            value
            if isinstance(value, Markup) or not isinstance(value, str)
            else escape_markdown(value)
        ),
    )
    environment.filters.update(_FILTERS)
    environment.tests["met"] = _is_met
    environment.filters["code"] = lambda text: Markup(code_span(text))  # noqa: S704
    environment.filters["fenced"] = lambda text, language="text": Markup(  # noqa: S704
        fenced(text, language)
    )
    return environment
