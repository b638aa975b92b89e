"""Figures of a set of responses: length, emptiness, repetition, diversity. From token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import regex

from workers.scorers.uniqueness import compute_response_uniqueness, list_units

DISTINCT_ORDERS = (1, 2, 3)
"""Values of n for which distinct-n is computed."""

REPEAT_ORDER = 4
"""Length of the n-grams by which a response's repetition of itself is counted. Chosen by hand."""

_SAYS_SOMETHING = regex.compile(
    r"[[\p{L}\p{N}\p{S}]--[\p{Sk}\p{Default_Ignorable_Code_Point}\u2800\ufffd]]", regex.V1
)
"""A letter, number or symbol, such as an emoji, that can be seen: no filler of Korean, no blank of
Braille, no accent by itself, nor what stands for broken bytes."""


@dataclass(frozen=True)
class DistinctShare:
    """Share of distinct n-grams among all in a set of responses (distinct-n, arXiv 1510.03055)."""

    order: int
    value: float
    """In [0, 1]; 0 if no response is long enough to have an n-gram."""
    without_one: tuple[float, ...]
    """The value with each response left out in turn, for the jackknife."""


@dataclass(frozen=True)
class ResponseFigures:
    """Figures of a set of responses; each tuple has one value per response, in order."""

    lengths: tuple[int, ...]
    """Length in tokens."""
    is_empty: tuple[bool, ...]
    hits_limit: tuple[bool, ...]
    """Whether the response was cut off at the token limit."""
    uniqueness: tuple[float, ...]
    """Response uniqueness ratio (arXiv 2506.13727, Eq. 11); 0 for an empty response."""
    self_repetition: tuple[float, ...]
    """Share of a response's 4-grams that repeat earlier ones, in [0, 1]; 0 if it has none."""
    distinct: tuple[DistinctShare, ...]
    """Distinct-n over all responses together, for each n of `DISTINCT_ORDERS`."""

    @property
    def mean_length(self) -> float:
        """Mean length in tokens."""
        return fmean(self.lengths)

    @property
    def mean_uniqueness(self) -> float:
        """Mean response uniqueness ratio."""
        return fmean(self.uniqueness)


def compute_response_figures(
    responses: Sequence[Sequence[int]],
    max_new_tokens: int,
    texts: Sequence[str] | None = None,
    answers: Sequence[Sequence[int]] | None = None,
) -> ResponseFigures:
    """Return the figures of responses, given as token ids without the end-of-sequence token.

    `answers` are the tokens that follow each one's reasoning, `texts` those as text. Lengths and
    the token limit are of whole responses, everything else of the answers: of the responses
    where none reasons; of their characters where a token is less than one (`list_units`). Empty
    is an answer without tokens or, where its text is given, without
    any letter, number or symbol. Raises `ValueError` without responses, or on unequally many
    texts or answers.
    """
    if not responses:
        raise ValueError("no responses to measure; give at least one prompt")
    if texts is not None and len(texts) != len(responses):
        raise ValueError(f"need a text for each response, got {len(texts)} for {len(responses)}")
    answers = responses if answers is None else answers
    if len(answers) != len(responses):
        raise ValueError(
            f"need an answer for each response, got {len(answers)} for {len(responses)}"
        )
    is_empty = find_empty(answers, texts)
    said: Sequence[str | None] = [None] * len(answers) if texts is None else texts
    units = [list_units(ids, text) for ids, text in zip(answers, said, strict=True)]
    return ResponseFigures(
        lengths=tuple(len(ids) for ids in responses),
        is_empty=is_empty,
        hits_limit=find_cut_off(responses, max_new_tokens),
        uniqueness=tuple(
            0.0 if empty else compute_response_uniqueness(own)
            for own, empty in zip(units, is_empty, strict=True)
        ),
        self_repetition=tuple(map(compute_self_repetition, units)),
        distinct=tuple(compute_distinct_share(units, order) for order in DISTINCT_ORDERS),
    )


def find_cut_off(responses: Sequence[Sequence[int]], max_new_tokens: int) -> tuple[bool, ...]:
    """Return for each response, without its end-of-sequence token, whether the limit cut it off."""
    return tuple(len(ids) >= max_new_tokens for ids in responses)


def find_empty(
    answers: Sequence[Sequence[int]], texts: Sequence[str] | None = None
) -> tuple[bool, ...]:
    """Return for each answer whether it is empty: without tokens, or a text that says nothing."""
    said = [True] * len(answers) if texts is None else [says_something(text) for text in texts]
    return tuple(not ids or not says for ids, says in zip(answers, said, strict=True))


def says_something(text: str) -> bool:
    """Return whether the text has a letter, number or symbol, not just blanks and punctuation."""
    return _SAYS_SOMETHING.search(text) is not None


def compute_self_repetition(units: Sequence[Hashable]) -> float:
    """Return the share of a response's 4-grams that stood in it before, in [0, 1]; 0 without any.

    It detects loops of any period, whereas the share of unique tokens also falls in long texts
    that are sound.
    """
    grams = list(_list_grams(units, REPEAT_ORDER))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def compute_distinct_share(responses: Sequence[Sequence[Hashable]], order: int) -> DistinctShare:
    """Return distinct-n over all responses together, and without each one in turn."""
    by_response = [Counter(_list_grams(ids, order)) for ids in responses]
    everywhere: Counter[tuple[Hashable, ...]] = Counter()
    for grams in by_response:
        everywhere.update(grams)
    total = everywhere.total()
    without_one = []
    for grams in by_response:
        only_here = sum(everywhere[gram] == count for gram, count in grams.items())
        without_one.append(_divide(len(everywhere) - only_here, total - grams.total()))
    return DistinctShare(order, _divide(len(everywhere), total), tuple(without_one))


def _divide(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _list_grams(ids: Sequence[Hashable], order: int) -> Iterator[tuple[Hashable, ...]]:
    return zip(*(ids[start:] for start in range(order)), strict=False)
