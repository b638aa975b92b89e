"""What was measured of one model state, a value a prompt, so that two states can be paired."""

from __future__ import annotations

import math
from typing import TypeVar

from pydantic import Field

from excise.names import Direction
from excise.reports.model import ReportModel
from workers.abilities.state import Abilities


class Unmeasured(ReportModel):
    """Stands where a measurement was asked for and failed."""

    reason: str


class MissingFigureError(ValueError):
    """A figure that a gate needs is not there; the message says why."""


class Responses(ReportModel):
    """A model's responses to one set of prompts; every tuple has one entry a response."""

    prompts: tuple[str, ...]
    """What was answered; a prompt's responses stand together."""
    token_ids: tuple[tuple[int, ...], ...]
    """Without the end-of-sequence token."""
    texts: tuple[str, ...]
    """What follows each response's reasoning; "" where that never ends."""
    max_new_tokens: int
    reasoning_tokens: tuple[int, ...] = ()
    """Tokens of each response before its answer, all of them where there is none; empty where no
    response reasons."""
    samples: int = 1
    """Responses to each prompt."""

    @property
    def answer_ids(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of each response's answer."""
        if not self.reasoning_tokens:
            return self.token_ids
        pairs = zip(self.token_ids, self.reasoning_tokens, strict=True)
        return tuple(ids[before:] for ids, before in pairs)

    @property
    def unanswered(self) -> int:
        """Responses that reach the token limit before they begin to answer."""
        pairs = zip(self.token_ids, self.reasoning_tokens, strict=False)  # there may be none
        return sum(before == len(ids) >= self.max_new_tokens for ids, before in pairs if before)

    def describe_unanswered(self) -> str:
        """How many responses never reached an answer, and what to do; empty where all did."""
        if not self.unanswered:
            return ""
        return (
            f"{self.unanswered} of {len(self.token_ids)} responses were still reasoning after "
            f"{self.max_new_tokens} tokens and count as empty. Raise max_new_tokens"
        )


class TextLosses(ReportModel):
    """How well a model predicts a text; every tuple follows the text's samples."""

    losses: tuple[float, ...]
    """Summed negative log-likelihood, nats."""
    lengths: tuple[int, ...]
    """Predicted tokens."""

    @property
    def perplexity(self) -> float:
        """exp(summed losses / predicted tokens)."""
        return math.exp(sum(self.losses) / sum(self.lengths))


class TextDivergences(ReportModel):
    """KL(base ‖ this state) on a text; every tuple follows the text's samples."""

    divergences: tuple[float, ...]
    """Summed over a sample's positions, nats."""
    lengths: tuple[int, ...]
    p95: float
    """Of single positions, nats."""


class RightAnswers(ReportModel):
    """Which questions of a zero-shot task were answered right, by summed log-likelihood."""

    right: tuple[bool, ...]


class BehaviourScores(ReportModel):
    """How much of a behaviour its prompts bring out; every tuple follows the prompts' order."""

    scores: tuple[float, ...]
    """Mean over a prompt's responses and the behaviour's scorers."""
    shown: tuple[int, ...]
    """How many of a prompt's responses show the behaviour, by its threshold."""
    samples: int = 1
    """Responses to each prompt."""
    direction: Direction
    is_empty: tuple[bool, ...] = ()
    """Whether any of a prompt's responses has no answer; empty where that is not known."""

    @property
    def shares(self) -> list[float]:
        """Share of each prompt's responses that show the behaviour, in [0, 1]."""
        return [count / self.samples for count in self.shown]

    @property
    def share(self) -> float:
        """Share of all responses that show the behaviour, in [0, 1]; one division of counts."""
        return sum(self.shown) / (self.samples * len(self.shown))


class ModelState(ReportModel):
    """Everything measured of one model as it was; what was not asked for is absent."""

    responses: dict[str, Responses | Unmeasured] = Field(default_factory=dict)
    """Name of a prompt set → responses to it."""
    perplexity: TextLosses | Unmeasured | None = None
    divergence: TextDivergences | Unmeasured | None = None
    """None for the base itself."""
    zero_shot: dict[str, RightAnswers | Unmeasured] = Field(default_factory=dict)
    """Name of a task → answers."""
    behaviours: dict[str, BehaviourScores | Unmeasured] = Field(default_factory=dict)
    """Name of a behaviour → how much of it its prompt set, of the same name, brings out."""
    abilities: Abilities | Unmeasured | None = None
    """What the model can do, slice by slice."""

    def to_bytes(self) -> bytes:
        """Return the state as JSON bytes; equal states give equal bytes."""
        return self.model_dump_json().encode()


_Figure = TypeVar("_Figure", bound=ReportModel)


def require(found: _Figure | Unmeasured | None, what: str) -> _Figure:
    """Return the measurement. Raises `MissingFigureError` where there is none."""
    if found is None:
        raise MissingFigureError(f"{what}: nothing was measured")
    if isinstance(found, Unmeasured):
        raise MissingFigureError(f"{what}: {found.reason}")
    return found
