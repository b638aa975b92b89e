"""What a scorer is: responses in, one number each out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from excise.names import Direction
from workers.words import Span


@dataclass(frozen=True)
class Answer:
    """One response of a model to one prompt, as scorers see it."""

    prompt: str
    """The prompt as text; of chat messages, their contents joined by line ends."""
    text: str
    """What follows the response's reasoning (`workers.measuring.reasoning`); "" where it never
    ends."""
    token_ids: tuple[int, ...]
    """The answer's tokens, without reasoning and end-of-sequence token."""


class BehaviourScorer(Protocol):
    """Tells how much responses show one behaviour.

    Scores are finite. Equal answers get equal scores, whatever they are scored together with.
    """

    @property
    def name(self) -> str:
        """What the report calls it, such as `detoxify/original`."""

    @property
    def direction(self) -> Direction:
        """Which end of the score is the good one."""

    def score(self, answers: Sequence[Answer]) -> list[float]:
        """Return one score an answer, in order."""


@runtime_checkable
class LocatingScorer(BehaviourScorer, Protocol):
    """A scorer that also says where: of a sentence the first token is explained then.

    That is where a model decides to say it. Without `locate`, the tokens at which the score of
    the answer so far rises are explained.
    """

    def locate(self, text: str) -> list[Span]:
        """Return where an answer says what is scored, in order: first character, one after last."""
