"""The canary of a version: prompts of its job, and the responses of base and corrected model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest

from excise.intake.prompt_sets import Prompt
from excise.specs.behaviours import CustomSpec, RepetitionSpec
from service.serving.canary import (
    MIN_PROMPTS,
    RESPONSE_UNIQUENESS,
    BehaviourCheck,
    CanaryDocument,
    CanaryPrompt,
    Dtype,
    ScoredResponse,
    compute_uniqueness,
)
from workers.correction.preparation import TUNE_SHARE
from workers.measuring.reasoning import read_response
from workers.measuring.splits import split_by_hash
from workers.models.encoding import cut_windows
from workers.models.tokenizer import Tokenizer
from workers.progress import Advance
from workers.pruning.patch import Patch
from workers.publishing.canary import TracePair, choose_pairs, trace_greedy
from workers.publishing.corrected import corrected
from workers.running.loading import CorrectionJobInputs
from workers.scorers.scorer import Answer, BehaviourScorer
from workers.stages.behaviours import encode_prompts
from workers.stages.context import InvalidInputError

NEW_TOKENS = 32
"""Number of tokens per continuation."""
PROMPTS = 24
"""Number of prompts in a canary, if the job has that many."""
CANDIDATES = 40
"""Number of undesired prompts tried; those on which the two models differ are preferred."""
REFERENCES = 8
"""Number of beginnings of reference texts that are tried as well."""
BEHAVIOUR_CHECKS = 4
"""Number of held-out prompts on which each behaviour's metric is compared."""
TOLERANCES: dict[Dtype, float] = {"float32": 1e-3, "bfloat16": 0.25, "float16": 0.1}
"""Tolerated difference in a token's log-probability from the worker's float32 model, in nats."""

_REFERENCE_TOKENS = 24
_MAX_PROMPT_TOKENS = 256
_METRIC_TOLERANCE = 0.1


@dataclass(frozen=True)
class _Candidate:
    """A prompt that may become part of the canary."""

    token_ids: tuple[int, ...]
    is_held_out: bool
    """Whether the prompt was held out when the correction was made."""
    behaviour: int | None = None
    """Number of the behaviour that the prompt belongs to."""
    text: str = ""
    """The prompt as the behaviour's scorer receives it."""


def build_canary(
    inputs: CorrectionJobInputs, patch: Patch, dtype: Dtype, advance: Advance
) -> CanaryDocument:
    """Return what a served version must answer: the worker's base and corrected model, in float32.

    `dtype` is what the servers compute in, and determines the tolerance. Raises `InvalidInputError`
    if there are too few prompts, or if the two models answer all alike.
    """
    candidates = _choose_candidates(inputs)
    prompts = [candidate.token_ids for candidate in candidates]
    model = inputs.base.model
    before = trace_greedy(model, prompts, NEW_TOKENS, advance)
    with corrected(model, patch, inputs.checkpoint_path):
        after = trace_greedy(model, prompts, NEW_TOKENS, advance)
    pairs = [TracePair(*pair) for pair in zip(before, after, strict=True)]
    if not any(pair.is_telling for pair in pairs):
        raise InvalidInputError(
            f"Base and corrected model answer all {len(pairs)} prompts tried alike, "
            f"{NEW_TOKENS} tokens each, so no canary can tell whether the correction is served. "
            "Correct with more prompts that show the behaviour."
        )
    chosen = choose_pairs(pairs, PROMPTS, lambda index: candidates[index].is_held_out)
    held_out = [
        (candidate, pair)
        for pair, candidate in zip(pairs, candidates, strict=True)
        if candidate.is_held_out and pair.is_telling
    ]
    return CanaryDocument(
        dtype=dtype,
        tolerance=TOLERANCES[dtype],
        prompts=tuple(map(_describe_pair, chosen)),
        behaviour=tuple(_check_behaviours(inputs, held_out)),
    )


def _check_behaviours(
    inputs: CorrectionJobInputs, held_out: Sequence[tuple[_Candidate, TracePair]]
) -> Iterator[BehaviourCheck]:
    """Yield up to `BEHAVIOUR_CHECKS` checks for each behaviour with a scorer of ours.

    A user's own scorer is not called, because it may not return the same value twice.
    """
    tokenizer = inputs.base.tokenizer
    for number, spec in enumerate(inputs.spec.behaviours):
        own = [found for found in held_out if found[0].behaviour == number]
        chosen = own[:BEHAVIOUR_CHECKS]
        if isinstance(spec, RepetitionSpec):
            yield from (_check_uniqueness(pair) for _, pair in chosen)
        elif chosen and not isinstance(spec, CustomSpec):
            scorer = inputs.behaviours[number].scorers[0]
            yield from (
                _check_score(scorer, tokenizer, candidate, pair) for candidate, pair in chosen
            )


def _choose_candidates(inputs: CorrectionJobInputs) -> list[_Candidate]:
    """Return undesired prompts, spread over all behaviours, and beginnings of reference texts."""
    tokenizer = inputs.base.tokenizer
    found = [
        candidate
        for number, behaviour in enumerate(inputs.spec.behaviours)
        for candidate in _list_candidates(tokenizer, inputs.chats(behaviour.prompts), number)
    ]
    chosen = _spread(found, CANDIDATES)
    wanted = max(REFERENCES, MIN_PROMPTS - len(chosen))
    windows = _cut_beginnings(tokenizer, inputs.prompts(inputs.spec.reference), wanted)
    chosen += [_Candidate(window, is_held_out=False) for window in windows]
    if len(chosen) < MIN_PROMPTS:
        raise InvalidInputError(
            f"The job has {len(chosen)} prompts and reference texts of suitable length; a canary "
            f"needs {MIN_PROMPTS}. Correct with more of them."
        )
    return chosen


def _list_candidates(
    tokenizer: Tokenizer, prompts: Sequence[Prompt], behaviour: int
) -> Iterator[_Candidate]:
    """Yield the prompts of one set that are short enough, each with its side of the split."""
    sides = split_by_hash([prompt.text for prompt in prompts], TUNE_SHARE)
    encoded = encode_prompts(tokenizer, prompts)
    for prompt, token_ids, is_tune in zip(prompts, encoded, sides, strict=True):
        if 0 < len(token_ids) <= _MAX_PROMPT_TOKENS:
            yield _Candidate(token_ids, not is_tune, behaviour, prompt.text)


def _cut_beginnings(
    tokenizer: Tokenizer, texts: Sequence[str], count: int
) -> Iterator[tuple[int, ...]]:
    """Yield `count` short windows, starting with the beginning of each text."""
    windows = [cut_windows(tokenizer, text, _REFERENCE_TOKENS) for text in texts[: 4 * count]]
    in_turn = chain.from_iterable(zip_longest(*windows))
    yield from islice((window for window in in_turn if window is not None), count)


def _spread(candidates: list[_Candidate], count: int) -> list[_Candidate]:
    """Return at most `count` distinct candidates, spread evenly over the list."""
    if len(candidates) <= count:
        return list(candidates)
    return [candidates[index * len(candidates) // count] for index in range(count)]


def _describe_pair(pair: TracePair) -> CanaryPrompt:
    return CanaryPrompt(
        prompt_token_ids=pair.base.prompt_ids,
        max_tokens=len(pair.base.token_ids),
        base_token_ids=pair.base.token_ids,
        corrected_token_ids=pair.corrected.token_ids,
        base_logprobs=pair.base.logprobs,
        corrected_logprobs=pair.corrected.logprobs,
        base_margins=pair.base.margins,
        corrected_margins=pair.corrected.margins,
    )


def _check_uniqueness(pair: TracePair) -> BehaviourCheck:
    return BehaviourCheck(
        metric=RESPONSE_UNIQUENESS,
        prompt_token_ids=pair.base.prompt_ids,
        max_tokens=len(pair.base.token_ids),
        base_value=compute_uniqueness(pair.base.token_ids),
        corrected_value=compute_uniqueness(pair.corrected.token_ids),
        tolerance=_METRIC_TOLERANCE,
    )


def _check_score(
    scorer: BehaviourScorer, tokenizer: Tokenizer, candidate: _Candidate, pair: TracePair
) -> BehaviourCheck:
    """Return a check for a scorer that only workers have: both models' responses and scores."""
    responses = pair.base.token_ids, pair.corrected.token_ids
    readings = [
        read_response(tokenizer, pair.base.prompt_ids, ids, skip_special_tokens=True)
        for ids in responses
    ]
    base, after = scorer.score(
        [Answer(candidate.text, reading.answer, reading.answer_ids) for reading in readings]
    )
    return BehaviourCheck(
        metric=scorer.name,
        prompt_token_ids=pair.base.prompt_ids,
        max_tokens=len(pair.base.token_ids),
        base_value=base,
        corrected_value=after,
        tolerance=_METRIC_TOLERANCE,
        scored=tuple(
            ScoredResponse(token_ids=ids, value=value)
            for ids, value in zip(responses, (base, after), strict=True)
        ),
    )
