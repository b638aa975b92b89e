"""The canary: the answers that a published version must give, and the judgement of a server's.

The worker that builds a version records, token by token, how its own base and corrected models
answer a few prompts. The service sends the same prompts to the server, with base and correction
mixed in one batch, and compares. Functions here are pure; nothing is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MIN_PROMPTS = 16
"""A canary has at least this many prompts. Chosen by hand."""

MIN_TELLING_PROMPTS = 1
"""Base and correction must differ on at least this many prompts, so that they can be told apart."""

RESPONSE_UNIQUENESS = "response_uniqueness"
"""The metric that the service computes itself."""

Dtype = Literal["float32", "bfloat16", "float16"]
Side = Literal["base", "corrected"]

_Tokens = Annotated[tuple[int, ...], Field(min_length=1)]
_SHOWN_TOKENS = 8


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CanaryPrompt(_Document):
    """One prompt and the greedy continuations of both models, end-of-sequence ignored."""

    prompt_token_ids: _Tokens
    max_tokens: int = Field(ge=1)
    base_token_ids: _Tokens
    corrected_token_ids: _Tokens
    base_logprobs: tuple[float, ...] = ()
    """Natural logarithm of each continuation token's probability."""
    corrected_logprobs: tuple[float, ...] = ()
    base_margins: tuple[float, ...] = ()
    """Log-probability of the token minus that of the runner-up; if it is small, a server with other
    arithmetic may legitimately choose the runner-up."""
    corrected_margins: tuple[float, ...] = ()

    def is_telling(self, tolerance: float = 0.0) -> bool:
        """Return whether the two models differ here by more than a tie within `tolerance`."""
        base, corrected = self.base_token_ids, self.corrected_token_ids
        if base == corrected:
            return False
        shared = _count_shared(base, corrected)
        margins = (
            self.base_margins[shared : shared + 1],
            self.corrected_margins[shared : shared + 1],
        )
        return tolerance == 0 or all(found and found[0] > 2 * tolerance for found in margins)

    @model_validator(mode="after")
    def _check_lengths(self) -> CanaryPrompt:
        for side in ("base", "corrected"):
            tokens = getattr(self, f"{side}_token_ids")
            if len(tokens) > self.max_tokens:
                raise ValueError(f"{side}_token_ids is longer than max_tokens, {self.max_tokens}")
            for name in (f"{side}_logprobs", f"{side}_margins"):
                if len(getattr(self, name)) not in (0, len(tokens)):
                    raise ValueError(f"{name} needs one number for each of {side}_token_ids")
        return self


class ScoredResponse(_Document):
    """A response scored by the worker, for metrics that only a worker can compute."""

    token_ids: _Tokens
    value: float


class BehaviourCheck(_Document):
    """A held-out prompt of a corrected behaviour, and the expected value of its metric."""

    metric: Annotated[str, Field(min_length=1, max_length=200)]
    """`response_uniqueness`, or the name of the scorer that gave `scored` their values."""
    prompt_token_ids: _Tokens
    max_tokens: int = Field(ge=1)
    base_value: float
    corrected_value: float
    """The metric of the correction's greedy continuation, end-of-sequence ignored."""
    tolerance: float = Field(ge=0)
    scored: tuple[ScoredResponse, ...] = ()
    """Scored responses of base and correction; empty if the service computes the metric itself."""

    @model_validator(mode="after")
    def _check_computable(self) -> BehaviourCheck:
        if not self.scored and self.metric != RESPONSE_UNIQUENESS:
            raise ValueError(f"{self.metric} is none the service computes; scored is needed")
        return self

    def find_value(self, token_ids: Sequence[int]) -> float | None:
        """Return the metric of a response; None if it has not been scored."""
        if not self.scored:
            return compute_uniqueness(token_ids)
        known = {response.token_ids: response.value for response in self.scored}
        return known.get(tuple(token_ids))


class CanaryDocument(_Document):
    """The answers that a version must give, computed by its builder's models in float32."""

    format_version: Literal[1] = 1
    dtype: Dtype
    """Number format of the servers. In float32, tokens must be equal; otherwise, probabilities must
    be close."""
    tolerance: float = Field(ge=0)
    """Largest allowed difference of a token's log-probability, nats; not used in float32."""
    prompts: tuple[CanaryPrompt, ...] = Field(min_length=MIN_PROMPTS)
    behaviour: tuple[BehaviourCheck, ...] = ()

    @property
    def telling_prompts(self) -> int:
        """Number of prompts on which base and correction differ detectably."""
        tolerance = 0.0 if self.dtype == "float32" else self.tolerance
        return sum(prompt.is_telling(tolerance) for prompt in self.prompts)


@dataclass(frozen=True)
class CanaryAnswer:
    """A server's answer to one prompt."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class CanaryAnswers:
    """A server's answers, one per prompt, in the document's order; `base` is empty if the server
    holds only a whole corrected checkpoint."""

    corrected: Sequence[CanaryAnswer]
    base: Sequence[CanaryAnswer] = ()
    behaviour: Sequence[CanaryAnswer] = ()


@dataclass(frozen=True)
class CanaryProblem:
    """Why a canary fails."""

    code: Literal["not_telling", "missing", "leak", "tokens", "logprobs", "behaviour"]
    message: str


def judge_canary(document: CanaryDocument, answers: CanaryAnswers) -> list[CanaryProblem]:
    """Return what is wrong with a server's answers; an empty list means that the version passes.

    A leak (an answer of the other model) is distinguished from other differences.
    """
    problems = list(_judge_document(document))
    problems += _judge_counts(document, answers)
    if problems:
        return problems
    asked: dict[Side, Sequence[CanaryAnswer]] = {"corrected": answers.corrected}
    if answers.base:
        asked["base"] = answers.base
    for side, given in asked.items():
        for number, (prompt, answer) in enumerate(zip(document.prompts, given, strict=True), 1):
            problem = _judge_answer(document, prompt, answer, side)
            if problem is not None:
                code, message = problem
                problems.append(CanaryProblem(code, f"Prompt {number}, {side}: {message}"))
    problems += _judge_behaviour(document, answers.behaviour)
    return problems


def compute_uniqueness(token_ids: Sequence[int]) -> float:
    """Unique tokens / tokens of a response, in [0, 1]; 0 for an empty one (arXiv 2506.13727,
    Eq. 11)."""
    return len(set(token_ids)) / len(token_ids) if token_ids else 0.0


def _judge_document(document: CanaryDocument) -> Sequence[CanaryProblem]:
    if document.telling_prompts >= MIN_TELLING_PROMPTS:
        return ()
    message = (
        f"Base and correction say the same on all {len(document.prompts)} prompts, so the canary "
        "cannot tell them apart. Publish again with prompts that show the corrected behaviour."
    )
    return (CanaryProblem("not_telling", message),)


def _judge_counts(document: CanaryDocument, answers: CanaryAnswers) -> Sequence[CanaryProblem]:
    expected: Mapping[str, tuple[int, Sequence[CanaryAnswer]]] = {
        "corrected": (len(document.prompts), answers.corrected),
        "base": (len(document.prompts) if answers.base else 0, answers.base),
        "behaviour": (len(document.behaviour), answers.behaviour),
    }
    return [
        CanaryProblem("missing", f"{len(given)} answers of {count} arrived ({name}).")
        for name, (count, given) in expected.items()
        if len(given) != count
    ]


def _judge_answer(
    document: CanaryDocument, prompt: CanaryPrompt, answer: CanaryAnswer, side: Side
) -> tuple[Literal["leak", "tokens", "logprobs"], str] | None:
    """Return what is wrong with one answer of one side; None if nothing is."""
    own: tuple[int, ...] = getattr(prompt, f"{side}_token_ids")
    other = prompt.base_token_ids if side == "corrected" else prompt.corrected_token_ids
    if document.dtype == "float32":
        if answer.token_ids == own:
            return None
        if answer.token_ids == other:
            return "leak", f"the {_other(side)} model answered instead of this one."
        return "tokens", _describe_difference(own, answer.token_ids)
    return _judge_probabilities(document.tolerance, prompt, answer, side)


def _judge_probabilities(
    tolerance: float, prompt: CanaryPrompt, answer: CanaryAnswer, side: Side
) -> tuple[Literal["leak", "tokens", "logprobs"], str] | None:
    """Judge an answer if rounding may differ: the first differing token must be a near tie."""
    own: tuple[int, ...] = getattr(prompt, f"{side}_token_ids")
    expected: tuple[float, ...] = getattr(prompt, f"{side}_logprobs")
    margins: tuple[float, ...] = getattr(prompt, f"{side}_margins")
    if not expected or not margins or len(answer.logprobs) != len(answer.token_ids):
        return "logprobs", "log-probabilities are missing; without float32 they are needed."
    shared = _count_shared(own, answer.token_ids)
    for position in range(shared):
        difference = abs(expected[position] - answer.logprobs[position])
        if not difference <= tolerance:
            what = f"token {position + 1} has a log-probability {difference:.3g} nats off"
            return "logprobs", f"{what}; the tolerance is {tolerance:.3g}."
    if shared == len(own):
        return None
    if margins[shared] <= 2 * tolerance:
        return None
    if answer.token_ids == (
        prompt.base_token_ids if side == "corrected" else prompt.corrected_token_ids
    ):
        return "leak", f"the {_other(side)} model answered instead of this one."
    return "tokens", _describe_difference(own, answer.token_ids)


def _judge_behaviour(
    document: CanaryDocument, given: Sequence[CanaryAnswer]
) -> Sequence[CanaryProblem]:
    problems = []
    for number, (check, answer) in enumerate(zip(document.behaviour, given, strict=True), 1):
        value = check.find_value(answer.token_ids)
        if value is None and document.dtype != "float32":
            continue  # rounding led elsewhere; the prompts' probabilities judge that
        if value is None or not abs(value - check.corrected_value) <= check.tolerance:
            found = "unknown, because neither model says this" if value is None else f"{value:.3f}"
            message = (
                f"Held-out prompt {number}: {check.metric} is {found}; the correction's is "
                f"{check.corrected_value:.3f} (± {check.tolerance:.3f}), the base's "
                f"{check.base_value:.3f}."
            )
            problems.append(CanaryProblem("behaviour", message))
    return problems


def _describe_difference(own: Sequence[int], found: Sequence[int]) -> str:
    shared = _count_shared(own, found)
    window = slice(shared, shared + _SHOWN_TOKENS)
    return (
        f"token {shared + 1} of {len(own)} differs: expected {list(own[window])}, "
        f"got {list(found[window])}."
    )


def _count_shared(own: Sequence[int], found: Sequence[int]) -> int:
    pairs = zip(own, found, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _other(side: Side) -> Side:
    return "base" if side == "corrected" else "corrected"
