"""A probe: a text or a chat, parts of which the model should write correctly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from workers.abilities.source import Source


class Area(StrEnum):
    """The kind of ability that a slice tests; the report groups slices by it."""

    COPYING = "copying"
    STRUCTURE = "structure"
    CONTEXT = "learning from context"
    INSTRUCTIONS = "instructions"
    KNOWLEDGE = "knowledge"
    LANGUAGE = "language"
    NEIGHBOURHOOD = "neighbourhood"


class Right(StrEnum):
    """How the share right of an item is counted."""

    WHOLE = "whole"
    """1 if every token of the continuation is the model's first choice, so that greedy decoding
    would write exactly it; otherwise 0."""
    TOKENS = "tokens"
    """The share of the continuation's tokens that are the model's first choice."""


@dataclass(frozen=True)
class Part:
    """A piece of a probe's text, given to the model or to be written by it (a target)."""

    text: str
    is_target: bool = False


@dataclass(frozen=True)
class Probe:
    """One text as a sequence of parts, after the user's turn if it is a chat.

    Each target is an item. Several items in one text cost little more than one, because the text
    before them is read only once.
    """

    parts: tuple[Part, ...]
    user: str | None = None
    """The user's turn in a chat, which the parts answer; None for plain text."""
    token_ids: tuple[int, ...] = ()
    """Random token ids to use instead of parts; the target is the same tokens once more."""

    @property
    def text(self) -> str:
        """The parts' text, without the user's turn."""
        return "".join(part.text for part in self.parts)


def given(text: str) -> Part:
    """Return a part that is given to the model."""
    return Part(text)


def target(text: str) -> Part:
    """Return a part that the model should write."""
    return Part(text, is_target=True)


def probe(*pieces: str) -> Probe:
    """Return the probe in which given parts and targets alternate, starting with a given one."""
    makers = (given, target)
    return Probe(tuple(makers[place % 2](text) for place, text in enumerate(pieces)))


@dataclass(frozen=True)
class SliceKind:
    """One slice: the ability, how its probes are drawn, and what counts as right."""

    name: str
    area: Area
    sentence: str
    """What the model does on such a probe, as words that complete "can no longer …"."""
    draw: Callable[[Source], Probe]
    items: int
    """Number of targets per probe."""
    right: Right = Right.WHOLE
    needs_chat: bool = False
    needs_vocabulary: bool = False
    """Whether its probes are made from the tokenizer's tokens."""
