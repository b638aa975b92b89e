"""Encoding of probes as token sequences in which the targets are marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.abilities.probe import Probe
from workers.domain import TokenSequence
from workers.models.encoding import (
    encode_chat,
    encode_part,
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


def encode_probe(tokenizer: Tokenizer, item: Probe) -> EncodedProbe:
    """Return the encoded probe.

    A tokenizer may merge characters across the border of two parts. Therefore the whole text is
    encoded at once, and a part's tokens are those that the text up to its end has in addition to
    the text before it. Where a chat's answer ends with a target, the end of the answer belongs to
    it: who goes on talking has not done what was asked.
    """
    if item.token_ids:
        return _encode_random(tokenizer, item.token_ids)
    opening = _encode_opening(tokenizer, item)
    whole = encode_part(tokenizer, item.text)
    marks, spans = [False] * len(whole), []
    end = 0
    for number, part in enumerate(item.parts, start=1):
        start, end = end, max(end, _count_shared(tokenizer, item, number, whole))
        if part.is_target:
            marks[start:end] = [True] * (end - start)
            spans.append(end - start)
    if item.user is not None and item.parts[-1].is_target:
        ending = _encode_ending(tokenizer)
        whole = (*whole, *ending)
        marks += [True] * len(ending)
        spans[-1] += len(ending)
    if whole and not opening and marks[0]:
        marks[0] = False  # a token without any token before it cannot be predicted
        spans[0] -= 1
    first = marks.index(True) if True in marks else len(whole)
    sample = TokenSequence((*opening, *whole[:first]), whole[first:], tuple(marks[first:]))
    return EncodedProbe(sample, tuple(spans))


def _encode_random(tokenizer: Tokenizer, token_ids: tuple[int, ...]) -> EncodedProbe:
    """Return random tokens twice; the second half's first one is unpredictable, so not a target."""
    ids = (*find_beginning(tokenizer), *token_ids)
    targets = len(token_ids) // 2 - 1
    split = len(ids) - targets
    sample = TokenSequence(ids[:split], ids[split:], (True,) * targets)
    return EncodedProbe(sample, (targets // 2, targets - targets // 2))


def _encode_opening(tokenizer: Tokenizer, item: Probe) -> tuple[int, ...]:
    if item.user is None:
        return find_beginning(tokenizer)
    return encode_chat(tokenizer, [{"role": "user", "content": item.user}])


def _encode_ending(tokenizer: Tokenizer) -> tuple[int, ...]:
    end = find_answer_end(tokenizer)
    return () if end is None else (end,)


def _count_shared(tokenizer: Tokenizer, item: Probe, parts: int, whole: Sequence[int]) -> int:
    """Return how many tokens of `whole` belong to the first `parts` parts."""
    if parts == len(item.parts):
        return len(whole)
    ids = encode_part(tokenizer, "".join(part.text for part in item.parts[:parts]))
    pairs = zip(ids, whole, strict=False)
    return next((index for index, (one, two) in enumerate(pairs) if one != two), len(ids))
