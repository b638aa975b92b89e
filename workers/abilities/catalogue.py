"""Every slice there is, and the probes of it that a tokenizer can be asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workers.abilities import context, copying, instructions, knowledge, languages, structure
from workers.abilities.encoding import EncodedProbe, encode_probe
from workers.abilities.probe import Probe, SliceKind
from workers.abilities.source import Purpose, Source

SLICES: tuple[SliceKind, ...] = (
    *copying.SLICES,
    *structure.SLICES,
    *context.SLICES,
    *instructions.SLICES,
    *knowledge.SLICES,
    *languages.SLICES,
)
"""What every model is asked, in the order of the report."""

NAMES = frozenset(kind.name for kind in SLICES)

VERDICT_ITEMS = 60
"""Items of a slice that a verdict rests on, at least."""

DRAWS_A_PROBE = 20
"""Draws for one probe that has not been drawn yet."""


def build_slices(
    tokenizer: Any,
    purpose: Purpose,
    seed: int,
    items: int = VERDICT_ITEMS,
    kinds: Sequence[SliceKind] = SLICES,
) -> dict[str, tuple[EncodedProbe, ...]]:
    """Return slice → probes with at least `items` items in all, the same for the same seed.

    No probe comes twice, as one asked again tells nothing new; a slice that has no more different
    ones is shorter. Slices of chats are left out where the tokenizer has no template.
    """
    vocabulary = list_ordinary_tokens(tokenizer)
    return {
        kind.name: _build(kind, tokenizer, Source(seed, purpose, kind.name, vocabulary), items)
        for kind in kinds
        if not kind.needs_chat or tokenizer.chat_template
    }


def list_ordinary_tokens(tokenizer: Any) -> list[int]:
    """Return the ids of all tokens that stand for text, ascending."""
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    return sorted(set(tokenizer.get_vocab().values()) - special)


def _build(kind: SliceKind, tokenizer: Any, source: Source, items: int) -> tuple[EncodedProbe, ...]:
    count = -(-items // kind.items)
    drawn: dict[Probe, None] = {}
    for _ in range(count * DRAWS_A_PROBE):
        if len(drawn) < count:
            drawn[kind.draw(source)] = None
    return tuple(encode_probe(tokenizer, probe) for probe in drawn)
