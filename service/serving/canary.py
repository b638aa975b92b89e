"""The canary: what a published version must answer, and the judgement of what a server answers.

The worker that builds a version writes down, token by token, what its own base and corrected
models say to a few prompts. The service asks the server the same, base and correction mixed in
one batch, and compares. Pure: nothing here asks anybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

MIN_PROMPTS = 16
"""Fewest prompts a canary may have."""
MIN_TELLING_PROMPTS = 1
"""Fewest prompts on which base and correction must differ, for the canary to tell them apart."""

RESPONSE_UNIQUENESS = "response_uniqueness"
"""The metric the service computes itself."""

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
    """Natural-log probability of each token of the continuation."""
    corrected_logprobs: tuple[float, ...] = ()
    base_margins: tuple[float, ...] = ()
    """How much more log-probability the token has than the runner-up: where this is small,
    another arithmetic may fairly choose the other one."""
    corrected_margins: tuple[float, ...] = ()

    def is_telling(self, tolerance: float = 0.0) -> bool:
        """Whether the two models differ here, by more than a tie within `tolerance`."""
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
    """A response the worker has scored, for metrics that only a worker can compute."""

    token_ids: _Tokens
    value: float


class BehaviourCheck(_Document):
    """A held-out prompt of a corrected behaviour, and what its metric comes to."""

    metric: Annotated[str, Field(min_length=1, max_length=200)]
    """`response_uniqueness`, or the name of the scorer that gave `scored` their values."""
    prompt_token_ids: _Tokens
    max_tokens: int = Field(ge=1)
    base_value: float
    corrected_value: float
    """Of the correction's greedy continuation, end-of-sequence ignored."""
    tolerance: float = Field(ge=0)
    scored: tuple[ScoredResponse, ...] = ()
    """What base and correction say; empty where the service computes the metric itself."""

    @model_validator(mode="after")
    def _check_computable(self) -> BehaviourCheck:
        if not self.scored and self.metric != RESPONSE_UNIQUENESS:
            raise ValueError(f"{self.metric} is none the service computes; scored is needed")
        return self

    def find_value(self, token_ids: Sequence[int]) -> float | None:
        """The metric of a response; None where nobody has scored it."""
        if not self.scored:
            return compute_uniqueness(token_ids)
        known = {response.token_ids: response.value for response in self.scored}
        return known.get(tuple(token_ids))


class CanaryDocument(_Document):
    """What a version must answer, as its builder's own models did, in float32."""

    format_version: Literal[1] = 1
    dtype: Dtype
    """What the servers compute in. In float32 tokens must be equal, else probabilities alike."""
    tolerance: float = Field(ge=0)
    """Largest difference of a token's log-probability, in nats; used unless float32."""
    prompts: tuple[CanaryPrompt, ...] = Field(min_length=MIN_PROMPTS)
    behaviour: tuple[BehaviourCheck, ...] = ()

    @property
    def telling_prompts(self) -> int:
        """Prompts on which base and correction differ, as the judgement can see it."""
        tolerance = 0.0 if self.dtype == "float32" else self.tolerance
        return sum(prompt.is_telling(tolerance) for prompt in self.prompts)


@dataclass(frozen=True)
class CanaryAnswer:
    """What a server said to one prompt."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True)
class CanaryAnswers:
    """A server's answers, one a prompt in the document's order; `base` is empty where the server
    holds nothing but a whole corrected checkpoint."""

    corrected: Sequence[CanaryAnswer]
    base: Sequence[CanaryAnswer] = ()
    behaviour: Sequence[CanaryAnswer] = ()


@dataclass(frozen=True)
class CanaryProblem:
    """Why a canary fails."""

    code: Literal["not_telling", "missing", "leak", "tokens", "logprobs", "behaviour"]
    message: str


def judge_canary(document: CanaryDocument, answers: CanaryAnswers) -> list[CanaryProblem]:
    """What is wrong with a server's answers; an empty list lets the version pass.

    A leak (an answer of the other model) is told from any other difference.
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
    """What is wrong with one answer of one side, or None."""
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
    """The same where rounding may differ: up to the first other token, that must be a near tie."""
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
            found = "unknown, for neither model says this" if value is None else f"{value:.3f}"
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
