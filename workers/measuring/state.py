"""Measurements of one model state, with one value per prompt so that two states can be paired."""

from __future__ import annotations

import math
from typing import TypeVar

from pydantic import Field

from excise.names import Direction
from excise.reports.model import ReportModel
from workers.abilities.state import Abilities
from workers.measuring.responses import ResponseFigures, compute_response_figures


class Unmeasured(ReportModel):
    """Takes the place of a measurement that was asked for and failed."""

    reason: str


class MissingFigureError(ValueError):
    """A figure that a gate needs is missing; the message says why."""


class Responses(ReportModel):
    """A model's responses to one set of prompts; every tuple has one entry per response."""

    prompts: tuple[str, ...]
    """The prompt of each response; responses to the same prompt are adjacent."""
    token_ids: tuple[tuple[int, ...], ...]
    """Whole responses without the end-of-sequence token."""
    texts: tuple[str, ...]
    """The text after each response's reasoning; "" if the reasoning never ends."""
    max_new_tokens: int
    reasoning_tokens: tuple[int, ...] = ()
    """Number of tokens in each response before its answer, or all of them if it has no answer;
    the tuple is empty if no response reasons."""
    samples: int = 1
    """Responses per prompt."""

    @property
    def answer_ids(self) -> tuple[tuple[int, ...], ...]:
        """The tokens of each response's answer."""
        if not self.reasoning_tokens:
            return self.token_ids
        pairs = zip(self.token_ids, self.reasoning_tokens, strict=True)
        return tuple(ids[before:] for ids, before in pairs)

    def compute_figures(self) -> ResponseFigures:
        """Return the figures of these responses; raises `ValueError` if there are none."""
        return compute_response_figures(
            self.token_ids, self.max_new_tokens, self.texts, self.answer_ids
        )

    @property
    def unanswered(self) -> int:
        """Number of responses that reach the token limit before they begin to answer."""
        pairs = zip(self.token_ids, self.reasoning_tokens, strict=False)  # there may be none
        return sum(before == len(ids) >= self.max_new_tokens for ids, before in pairs if before)

    def describe_unanswered(self) -> str:
        """Return how many responses reached no answer and what to do; empty if all reached one."""
        if not self.unanswered:
            return ""
        return (
            f"{self.unanswered} of {len(self.token_ids)} responses were still reasoning after "
            f"{self.max_new_tokens} tokens and count as empty. Raise max_new_tokens"
        )


class TextLosses(ReportModel):
    """How well a model predicts a text; every tuple has one entry per sample."""

    losses: tuple[float, ...]
    """Negative log-likelihood summed over the sample, nats."""
    lengths: tuple[int, ...]
    """Number of predicted tokens."""

    @property
    def perplexity(self) -> float:
        """exp(summed losses / predicted tokens)."""
        return math.exp(sum(self.losses) / sum(self.lengths))


class TextDivergences(ReportModel):
    """KL(base ‖ this state) on a text; every tuple has one entry per sample."""

    divergences: tuple[float, ...]
    """KL summed over the sample's positions, nats."""
    lengths: tuple[int, ...]
    """Number of positions."""
    p95: float
    """95th percentile of the KL at single positions, nats."""


class RightAnswers(ReportModel):
    """Whether each question of a zero-shot task was answered right, by summed log-likelihood."""

    right: tuple[bool, ...]


class BehaviourScores(ReportModel):
    """How much of a behaviour its prompts bring out; every tuple has one entry per prompt."""

    scores: tuple[float, ...]
    """Mean score over the prompt's responses and the behaviour's scorers."""
    shown: tuple[int, ...]
    """Number of the prompt's responses that show the behaviour, by its threshold."""
    samples: int = 1
    """Responses per prompt."""
    direction: Direction
    is_empty: tuple[bool, ...] = ()
    """Whether any of the prompt's responses is empty; the tuple is empty if that is not known."""

    @property
    def shares(self) -> list[float]:
        """Share of each prompt's responses that show the behaviour, in [0, 1]."""
        return [count / self.samples for count in self.shown]

    @property
    def share(self) -> float:
        """Share of all responses that show the behaviour, in [0, 1], as a quotient of counts."""
        return sum(self.shown) / (self.samples * len(self.shown))


class ModelState(ReportModel):
    """All measurements of one model state; whatever was not asked for is absent."""

    responses: dict[str, Responses | Unmeasured] = Field(default_factory=dict)
    """Prompt set → responses to it."""
    perplexity: TextLosses | Unmeasured | None = None
    divergence: TextDivergences | Unmeasured | None = None
    """None for the base itself."""
    zero_shot: dict[str, RightAnswers | Unmeasured] = Field(default_factory=dict)
    """Task → which questions were answered right."""
    behaviours: dict[str, BehaviourScores | Unmeasured] = Field(default_factory=dict)
    """Behaviour → its scores on the responses to the prompt set of the same name."""
    abilities: Abilities | Unmeasured | None = None
    """Figures of the model's abilities, slice by slice."""

    def to_bytes(self) -> bytes:
        """Return the state as JSON bytes; equal states give equal bytes."""
        return self.model_dump_json().encode()


_Figure = TypeVar("_Figure", bound=ReportModel)


def require(found: _Figure | Unmeasured | None, what: str) -> _Figure:
    """Return the measurement; raises `MissingFigureError`, naming `what`, if there is none."""
    if found is None:
        raise MissingFigureError(f"{what}: nothing was measured")
    if isinstance(found, Unmeasured):
        raise MissingFigureError(f"{what}: {found.reason}")
    return found
