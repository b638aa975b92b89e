"""The interface of scorers: responses in, one number per response out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from excise.names import Direction
from workers.words import Span


@dataclass(frozen=True)
class Answer:
    """A model's response to one prompt, as scorers get it."""

    prompt: str
    """The prompt as text; for a chat, the contents of its messages joined by line breaks."""
    text: str
    """The text after the response's reasoning (`workers.measuring.reasoning`); "" if the reasoning
    never ends."""
    token_ids: tuple[int, ...]
    """The answer's tokens, without reasoning and end-of-sequence token."""


class BehaviourScorer(Protocol):
    """Measures how much responses show one behaviour.

    Scores are finite. Equal answers get equal scores, whatever other answers are in the batch.
    """

    @property
    def name(self) -> str:
        """The scorer's name in the report, such as `detoxify/original`."""

    @property
    def direction(self) -> Direction:
        """Whether lower or higher scores are better."""

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
