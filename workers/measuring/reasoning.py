"""Finding the answer in a response: the text after its reasoning, for all marks models use.

Everything that judges responses (scorers, refusals, gates, reports) judges the answer found here.
If a block of reasoning never ends there is no answer, and the response counts as empty. The chat
template may open the block, so that the opening mark ends the prompt and the response has at most
the closing one. A response without marks is an answer as a whole, unchanged.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workers.models.tokenizer import Tokenizer

LEFT_OUT = "[reasoning left out]"
NO_ANSWER = "[reasoning only, no answer]"
"""What a report shows instead of reasoning."""

PROMPT_TAIL_TOKENS = 32
"""This many tokens at the end of a prompt are searched for a block opened by the chat template;
all marks are shorter."""

_TAGS = (
    r"(?:think(?:ing|_fast|_faster|:opensource)?|thoughts?|reason(?:ing)?|scratchpad|seed:think|"
    r"mm:think|longcat_think|ifm\|think\w*)"
)
_PAIRS = (
    # DeepSeek-R1, Qwen3, Phi-4, EXAONE, Seed-OSS, MiniMax, LongCat, K2-Horizon, many fine-tunes
    (rf"<\s*(?P<tag>{_TAGS})\s*>", rf"<\s*/\s*(?P<end_tag>{_TAGS})\s*>"),
    # Magistral
    (r"\[THINK\]", r"\[/THINK\]"),
    # gpt-oss (harmony): everything before the final channel
    (
        r"<\|channel\|>\s*(?:analysis|commentary)\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>",
        r"<\|channel\|>\s*final\b[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>",
    ),
    # Gemma 4
    (r"<\|channel>\s*thought\b", r"<channel\|>"),
    # MedGemma
    (r"<unused94>(?:\s*thought\b)?", r"<unused95>"),
    # Kimi-VL and Kimi K2; Kimi K3
    (r"◁think▷", r"◁/think▷"),
    (r"<\|open\|>\s*think\s*<\|sep\|>", r"<\|close\|>\s*think\s*<\|sep\|>"),
    # OpenThinker, Sky-T1
    (
        r"<\|begin_of_(?:thought|thinking|reasoning)\|>",
        r"<\|end_of_(?:thought|thinking|reasoning)\|>",
    ),
    # Command A Reasoning
    (r"<\|START_THINKING\|>", r"<\|END_THINKING\|>"),
    # fine-tuned models with marks of their own
    (
        r"<\|(?:think|thinking|thought|reasoning)(?:_start|_begin)?\|>",
        r"<\|(?:/(?:think|thinking|thought|reasoning)|(?:think|thinking|thought|reasoning)_end)\|>",
    ),
    # Apertus
    (r"<\|inner_prefix\|>", r"<\|inner_suffix\|>"),
    # Pangu
    (r"\[unused16\]", r"\[unused17\]"),
)
"""Opening and closing marks."""

_START_PAIRS = (
    # Granite 3.2; the model writes these sentences as text
    (r"\s*here(?: i|['’])s my thought process\s*:", r"here(?: i|['’])s my response\s*:"),
    # HyperCLOVA X SEED Think
    (r"\s*/think\s*\n", r"<\|im_start\|>\s*assistant\s*\n"),
)
"""Marks that can also be ordinary text, so they open a block only at the start of a response."""

_WRAPPINGS = (
    (r"<answer>", r"</answer>"),
    (r"<response>", r"</response>"),
    (r"<output>", r"</output>"),
    (r"<solution>", r"</solution>"),
    (r"<\|begin_of_solution\|>", r"<\|end_of_solution\|>"),
    (r"<\|START_RESPONSE\|>", r"<\|END_RESPONSE\|>"),
    (r"<\|START_TEXT\|>", r"<\|END_TEXT\|>"),
    (r"<\|open\|>\s*response\s*<\|sep\|>", r"<\|close\|>\s*response\s*<\|sep\|>"),
)
"""Marks that models put around the text after their reasoning."""

_QUOTES = frozenset("`'\"‘’“”«»„")
_TURN_END = re.compile(r"<\|(?:end|return|im_end|eot_id)\|>|<turn\|>|<end_of_turn>")


def _compile_marks() -> re.Pattern[str]:
    parts = []
    for number, (opening, closing) in enumerate(_PAIRS):
        parts += [f"(?P<open{number}>{opening})", f"(?P<close{number}>{closing})"]
    for number, (opening, closing) in enumerate(_START_PAIRS, start=len(_PAIRS)):
        parts += [rf"(?P<open{number}>\A{opening})", f"(?P<close{number}>{closing})"]
    return re.compile("|".join(parts), re.IGNORECASE)


_MARKS = _compile_marks()
_FIRST_START_PAIR = len(_PAIRS)
_WRAPPED = tuple(
    (re.compile(rf"\s*{opening}", re.IGNORECASE), re.compile(closing, re.IGNORECASE))
    for opening, closing in _WRAPPINGS
)


@dataclass(frozen=True)
class _Mark:
    """One mark in a text: its kind and its place."""

    kind: str
    is_opening: bool
    start: int
    end: int


@dataclass(frozen=True)
class _Parts:
    """The place of the answer in a text; `start` equals `stop` if there is none."""

    has_reasoning: bool
    start: int
    stop: int


@dataclass(frozen=True)
class Reading:
    """A response split into reasoning and answer."""

    answer: str
    """The text after the reasoning: all of it without reasoning, "" if reasoning never ends."""
    token_ids: tuple[int, ...]
    """Token ids of the whole response."""
    reasoning_tokens: int = 0
    """Number of tokens before the answer; all of them if there is no answer."""

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """Token ids of the answer."""
        return self.token_ids[self.reasoning_tokens :]


def read_response(
    tokenizer: Tokenizer,
    prompt_ids: Sequence[int],
    response_ids: Sequence[int],
    *,
    skip_special_tokens: bool = False,
) -> Reading:
    """Return a response's answer as text, and the number of tokens before it.

    Marks are found before special tokens are dropped, because many marks are special tokens.
    """
    ids = tuple(response_ids)
    text = tokenizer.decode(ids)
    parts = _find_parts(text, tokenizer.decode(tuple(prompt_ids[-PROMPT_TAIL_TOKENS:])))
    if not parts.has_reasoning:
        whole = tokenizer.decode(ids, skip_special_tokens=True) if skip_special_tokens else text
        return Reading(whole, ids)
    answer = text[parts.start : parts.stop]
    if skip_special_tokens:
        answer = _drop_special_tokens(tokenizer, answer)
    return Reading(answer, ids, _count_before(tokenizer, ids, parts) if answer else len(ids))


def read_prefixes(
    tokenizer: Tokenizer, prompt_ids: Sequence[int], response_ids: Sequence[int]
) -> list[Reading]:
    """Return a reading of each prefix of a response, split by the marks of the whole response.

    Whatever precedes the whole response's answer is reasoning in every prefix, so a mark that a
    later token completes does not change the earlier readings.
    """
    ids = tuple(response_ids)
    parts = _find_parts(
        tokenizer.decode(ids), tokenizer.decode(tuple(prompt_ids[-PROMPT_TAIL_TOKENS:]))
    )
    before = 0
    if parts.has_reasoning:
        before = _count_before(tokenizer, ids, parts) if parts.stop > parts.start else len(ids)
    return [
        Reading(
            tokenizer.decode(ids[:end])[parts.start : parts.stop if parts.has_reasoning else None]
            if end > before
            else "",
            ids[:end],
            min(before, end),
        )
        for end in range(1, len(ids) + 1)
    ]


def describe_answer(answer: str, reasoning_tokens: int) -> str:
    """Return an answer as a report shows it, with a note if reasoning was left out."""
    if not reasoning_tokens:
        return answer
    return f"{LEFT_OUT} {answer}" if answer else NO_ANSWER


def _find_parts(text: str, prompt: str) -> _Parts:
    """Return the place of the answer in `text`, which holds special tokens.

    `prompt`, or its end, shows whether the chat template opened a block already. If several parts
    lie outside reasoning, the last one that is not blank is the answer.
    """
    opened = _find_opened(prompt)
    marks = list(_find_marks(text))
    outside = _list_outside(text, marks, opened)
    if opened is None and outside == [(0, len(text))]:
        return _Parts(False, 0, len(text))
    for start, stop in reversed(outside):
        start, stop = _unwrap(text, start, stop)
        if start < stop:
            return _Parts(True, start, stop)
    return _Parts(True, len(text), len(text))


def _find_opened(prompt: str) -> str | None:
    """Return the kind of block that the end of a prompt opens; None if it opens none."""
    tail = prompt.rstrip()
    ends = (mark.kind for mark in _find_marks(tail) if mark.is_opening and mark.end == len(tail))
    return next(ends, None)


def _find_marks(text: str) -> Iterator[_Mark]:
    for found in _MARKS.finditer(text):
        name = next(key for key, value in found.groupdict().items() if value and key[-1].isdigit())
        tag = found.group("tag") or found.group("end_tag") or ""
        number = name.removeprefix("open").removeprefix("close")
        is_opening = name.startswith("open")
        yield _Mark(number + tag.lower(), is_opening, found.start(), found.end())


def _list_outside(text: str, marks: Sequence[_Mark], opened: str | None) -> list[tuple[int, int]]:
    """Return the spans of `text` outside all blocks of reasoning, in order."""
    closings = {mark.kind: mark.start for mark in marks if not mark.is_opening}
    only_opened = {str(number) for number in range(_FIRST_START_PAIR, _FIRST_START_PAIR + 2)}
    outside, start, inside = [], 0, opened
    mentioned: set[str] = set()
    for mark in marks:
        if inside is not None:
            if not mark.is_opening and mark.kind == inside:
                inside, start, mentioned = None, mark.end, set()
        elif mark.is_opening and _opens(text, mark, start, closings):
            outside.append((start, mark.start))
            inside = mark.kind
        elif mark.is_opening:
            mentioned.add(mark.kind)
        elif mark.kind not in mentioned | only_opened:
            start = mark.end  # the template opened the block; the text before is reasoning
    return outside if inside is not None else [*outside, (start, len(text))]


def _opens(text: str, mark: _Mark, start: int, closings: dict[str, int]) -> bool:
    """Return whether an opening mark really opens a block and is not merely mentioned.

    It does if only blanks or a line break precede it, and otherwise if the block ends later; a
    mark in quotes never does.
    """
    before = text[start : mark.start]
    if not before.strip():
        return True
    if before[-1] in _QUOTES:
        return False
    is_first = not before.rpartition("\n")[2].strip()
    return is_first or closings.get(mark.kind, -1) >= mark.end


def _unwrap(text: str, start: int, stop: int) -> tuple[int, int]:
    """Return a span without surrounding blanks and without marks around the answer."""
    for opening, closing in _WRAPPED:
        found = opening.match(text, start, stop)
        if found is not None:
            start = found.end()
            ending = closing.search(text, start, stop)
            stop = stop if ending is None else ending.start()
            break
    turn = _TURN_END.search(text, start, stop)
    stop = stop if turn is None else turn.start()
    kept = text[start:stop]
    return start + len(kept) - len(kept.lstrip()), start + len(kept.rstrip())


def _count_before(tokenizer: Tokenizer, ids: tuple[int, ...], parts: _Parts) -> int:
    """Return the number of tokens that end before the answer's first character."""
    lengths = range(len(ids) + 1)
    reached = bisect_left(
        lengths, parts.start + 1, key=lambda end: len(tokenizer.decode(ids[:end]))
    )
    return max(reached - 1, 0)


def _drop_special_tokens(tokenizer: Tokenizer, text: str) -> str:
    for token in tokenizer.all_special_tokens:
        text = text.replace(token, "")
    return text.strip()
