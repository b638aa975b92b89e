"""What a scorer is: responses in, one number each out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from excise.names import Direction


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
