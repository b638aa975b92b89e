"""Encoding of probes as token sequences in which the targets are marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.abilities.probe import Probe
from workers.domain import TokenSequence
from workers.models.encoding import (
    encode_chat,
    encode_parts,
    find_answer_end,
    find_beginning,
)
from workers.models.tokenizer import Tokenizer


@dataclass(frozen=True)
class EncodedProbe:
    """A probe's tokens, with targets marked; the response part begins at the first target."""

    sample: TokenSequence
    spans: tuple[int, ...]
    """Number of tokens of each target, in order; 0 if its only token is shared with other text."""


def encode_probes(tokenizer: Tokenizer, items: Sequence[Probe]) -> tuple[EncodedProbe, ...]:
    """Return the encoded probes.

    A tokenizer may merge characters across the border of two parts. Therefore the whole text is
    encoded at once, and a part's tokens are those that the text up to its end has in addition to
    the text before it. Where a chat's answer ends with a target, the end of the answer belongs to
    it: who goes on talking has not done what was asked.
    """
    texts = [
        "".join(part.text for part in item.parts[:end]) for item in items for end in _ends(item)
    ]
    encoded = iter(encode_parts(tokenizer, texts))
    beginning = find_beginning(tokenizer)
    ending = _encode_ending(tokenizer) if any(map(_ends_answer, items)) else ()
    found = []
    for item in items:
        beginnings = [next(encoded) for _ in _ends(item)]
        if item.token_ids:
            found.append(_encode_random(beginning, item.token_ids))
            continue
        opening = beginning if item.user is None else _encode_opening(tokenizer, item.user)
        found.append(_mark(item, opening, beginnings, ending))
    return tuple(found)


def _ends(item: Probe) -> range:
    """Return, for each part, how many parts there are up to its end."""
    return range(1, len(item.parts) + 1)


def _ends_answer(item: Probe) -> bool:
    """Return whether a chat's answer ends with a target."""
    return item.user is not None and item.parts[-1].is_target


def _mark(
    item: Probe,
    opening: tuple[int, ...],
    beginnings: Sequence[tuple[int, ...]],
    ending: tuple[int, ...],
) -> EncodedProbe:
    """Return the probe with marked targets; `beginnings` are its texts up to each part's end."""
    whole = beginnings[-1] if beginnings else ()
    marks, spans = [False] * len(whole), []
    end = 0
    for part, ids in zip(item.parts, beginnings, strict=True):
        start, end = end, max(end, _count_shared(ids, whole))
        if part.is_target:
            marks[start:end] = [True] * (end - start)
            spans.append(end - start)
    if _ends_answer(item):
        whole = (*whole, *ending)
        marks += [True] * len(ending)
        spans[-1] += len(ending)
    if whole and not opening and marks[0]:
        marks[0] = False  # a token without any token before it cannot be predicted
        spans[0] -= 1
    first = marks.index(True) if True in marks else len(whole)
    sample = TokenSequence((*opening, *whole[:first]), whole[first:], tuple(marks[first:]))
    return EncodedProbe(sample, tuple(spans))


def _encode_random(beginning: tuple[int, ...], token_ids: tuple[int, ...]) -> EncodedProbe:
    """Return random tokens twice; the second half's first one is unpredictable, so not a target."""
    ids = (*beginning, *token_ids)
    targets = len(token_ids) // 2 - 1
    split = len(ids) - targets
    sample = TokenSequence(ids[:split], ids[split:], (True,) * targets)
    return EncodedProbe(sample, (targets // 2, targets - targets // 2))


def _encode_opening(tokenizer: Tokenizer, question: str) -> tuple[int, ...]:
    return encode_chat(tokenizer, [{"role": "user", "content": question}])


def _encode_ending(tokenizer: Tokenizer) -> tuple[int, ...]:
    end = find_answer_end(tokenizer)
    return () if end is None else (end,)


def _count_shared(ids: Sequence[int], whole: Sequence[int]) -> int:
    """Return how many tokens the two begin with that are the same."""
    pairs = zip(ids, whole, strict=False)
    return next((index for index, (one, two) in enumerate(pairs) if one != two), len(ids))
