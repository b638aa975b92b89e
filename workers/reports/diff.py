"""Comparing two responses word by word, and finding loops in them."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from excise.reports.text import visible_text
from workers.words import cut_pieces, is_sign

_DIFF_BUDGET = 4_000_000
_LONGEST_LOOP_WORDS = 100
_MARKDOWN_DIFF_COLUMNS = 92


@dataclass(frozen=True)
class Loop:
    """A phrase of `words` words that a response repeats `times` times in a row."""

    start: int
    words: int
    times: int
    end: int
    """Index after the last word that still belongs to the loop, including an incomplete turn."""
    unit: str = "word"
    """What one of its words is: a `sign` if the script has no spaces between words."""

    def __str__(self) -> str:
        phrase = f"one {self.unit}" if self.words == 1 else f"a {self.words}-{self.unit} phrase"
        return f"↻ {phrase}, {self.times} times in a row"


@dataclass(frozen=True)
class Span:
    """A span of a response; `turn` counts a loop's turns from 1 and is 0 outside loops."""

    text: str
    changed: bool
    turn: int


@dataclass(frozen=True)
class Comparison:
    """Two responses with their differences marked."""

    before: list[Span]
    after: list[Span]
    before_loop: Loop | None
    """The longest loop in the first response."""
    after_loop: Loop | None
    diff: str
    """The comparison as the content of a `diff` block."""


def find_loops(words: Sequence[str]) -> list[Loop]:
    """Return phrases repeated at least three times in a row, from left to right.

    Where loops overlap, the longest is taken.
    """
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
    if best is not None and any(map(is_sign, words[best.start : best.start + best.words])):
        return replace(best, unit="sign")
    return best


def _changed_words(before: list[str], after: list[str]) -> list[tuple[bool, slice, slice]]:
    """Return runs of the two word lists as (changed, before, after).

    A single common word between changes counts as changed.
    """
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
    """Yield `words` as wrapped lines of a `diff` block; each turn of a loop starts a new line."""
    text = "".join(
        "\n" + word.lstrip(" ") if first + offset in starts else word
        for offset, word in enumerate(words)
    )
    for line in text.removeprefix("\n").removesuffix("\n").split("\n"):
        for part in textwrap.wrap(line.strip(" "), _MARKDOWN_DIFF_COLUMNS) or [""]:
            yield f"{sign} {part}".rstrip()


def _turn_starts(words: list[str], loops: list[Loop]) -> set[int]:
    """Return the positions at which a turn of a loop must start a new line."""
    starts = (start for x in loops for start in range(x.start, x.end, x.words) if x.words > 2)
    return {start for start in starts if "\n" not in words[start]}


def compare_responses(old_text: str, new_text: str) -> Comparison:
    """Return the comparison of the response before and the one after."""
    before, after = cut_pieces(visible_text(old_text)), cut_pieces(visible_text(new_text))
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
    return Comparison(
        before=_spans(before, [c for c, old, _ in runs for _ in before[old]], loops_before),
        after=_spans(after, [c for c, _, new in runs for _ in after[new]], loops_after),
        before_loop=_longest(loops_before),
        after_loop=_longest(loops_after),
        diff="\n".join(lines) or "  (both responses are empty)",
    )


def _longest(loops: list[Loop]) -> Loop | None:
    return max(loops, key=lambda loop: loop.end - loop.start, default=None)
