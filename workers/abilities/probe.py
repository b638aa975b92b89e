"""A probe: a text, or a chat, parts of which the model is to continue rightly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from workers.abilities.source import Source


class Area(StrEnum):
    """What kind of ability a slice is about; the report groups by it."""

    COPYING = "copying"
    STRUCTURE = "structure"
    CONTEXT = "learning from context"
    INSTRUCTIONS = "instructions"
    KNOWLEDGE = "knowledge"
    LANGUAGE = "language"
    NEIGHBOURHOOD = "neighbourhood"


class Right(StrEnum):
    """What counts as right on one probe."""

    WHOLE = "whole"
    """1 where every token of the continuation is the model's first choice, else 0: greedy
    decoding would write exactly that."""
    TOKENS = "tokens"
    """The share of the continuation's tokens that are the model's first choice."""


@dataclass(frozen=True)
class Part:
    """A piece of a probe's text; a target is what the model should write by itself."""

    text: str
    is_target: bool = False


@dataclass(frozen=True)
class Probe:
    """One text: its parts in order, after a chat's user turn where there is one.

    Each target is an item. Several in one text cost little more than one, as what comes before
    them is read once.
    """

    parts: tuple[Part, ...]
    user: str | None = None
    """The user turn of a chat that the parts answer; None for plain text."""
    token_ids: tuple[int, ...] = ()
    """Instead of parts: random tokens, which no text need stand for; the second half repeats."""


def given(text: str) -> Part:
    """Return a part that the model is given."""
    return Part(text)


def target(text: str) -> Part:
    """Return a part that the model should write by itself."""
    return Part(text, is_target=True)


def probe(*pieces: str) -> Probe:
    """Return the usual probe: what is given and what is to follow, in turn."""
    makers = (given, target)
    return Probe(tuple(makers[place % 2](text) for place, text in enumerate(pieces)))


@dataclass(frozen=True)
class SliceKind:
    """One ability: how its probes are drawn and what counts as right."""

    name: str
    area: Area
    sentence: str
    """What the model does on such a probe, in words that end "can no longer …"."""
    draw: Callable[[Source], Probe]
    items: int
    """Targets of one probe."""
    right: Right = Right.WHOLE
    needs_chat: bool = False
    needs_vocabulary: bool = False
    """Whether its probes are made of the tokenizer's own tokens."""
