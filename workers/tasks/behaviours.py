"""From a spec's behaviours and prompt sets to what the core works with."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from service.jobs.specs.behaviours import (
    OFFLINE_EVALUATOR,
    BehaviourSpec,
    CustomSpec,
    PhraseSpec,
    RepetitionSpec,
    ToxicitySpec,
)
from service.prompt_sets.parsing import Prompt
from workers.correction.behaviour import Behaviour, Headline, Marking
from workers.detoxify_checkpoints import find_detoxify
from workers.encoding import encode_chat, encode_text
from workers.settings import WorkerSettings
from workers.tasks.context import InvalidInputError
from workers.validation.generation import Decoding
from workers.validation.scorers.build import (
    DetoxifyDescription,
    EntryPointDescription,
    HttpDescription,
    PhraseDescription,
    ProfanityDescription,
    ScorerDescription,
    ScorerSurroundings,
    TrustedHost,
    UniquenessDescription,
    build_scorer,
)
from workers.validation.scorers.phrases import Phrases
from workers.validation.scorers.scorer import Direction

PHRASE_THRESHOLD = 0.5
"""A phrase is in a response, which scores 1, or not, which scores 0."""


def build_behaviour(
    spec: BehaviourSpec, surroundings: ScorerSurroundings, resources: ExitStack
) -> Behaviour:
    """Return the behaviour a spec describes, its scorers loaded; see `build_scorer`.

    Raises `ScorerError`.
    """
    return Behaviour(
        name=spec.name,
        kind=spec.kind,
        decoding=Decoding(**spec.decoding.model_dump()),
        scorers=tuple(
            build_scorer(description, surroundings, resources)
            for description in describe_scorers(spec)
        ),
        threshold=PHRASE_THRESHOLD if isinstance(spec, PhraseSpec) else spec.threshold,
        agreeing=spec.agreeing if isinstance(spec, ToxicitySpec) else 1,
        headline=_choose_headline(spec),
        min_effect=spec.min_effect,
        marking=_choose_marking(spec),
        max_remaining=spec.max_remaining,
        is_graded=not isinstance(spec, CustomSpec),
    )


def describe_surroundings(settings: WorkerSettings, device: str) -> ScorerSurroundings:
    """Return what this worker's operator decides about scorers, which are loaded onto `device`."""
    return ScorerSurroundings(
        find_detoxify=partial(find_detoxify, roots=settings.scorer_roots),
        device=device,
        hosts=tuple(TrustedHost(**host.model_dump()) for host in settings.scorer_hosts),
        environment=os.environ,
    )


def describe_scorers(spec: BehaviourSpec) -> list[ScorerDescription]:
    """Return the scorers a spec asks for, in order."""
    match spec:
        case RepetitionSpec():
            return [UniquenessDescription()]
        case ToxicitySpec():
            return [_describe_evaluator(name) for name in spec.evaluators]
        case PhraseSpec():
            phrases = Phrases(
                tuple(spec.phrases or ()), spec.pattern, spec.ignore_case, spec.whole_words
            )
            return [PhraseDescription(spec.name, phrases)]
        case CustomSpec():
            direction = Direction(spec.direction)
            if spec.entry_point is not None:
                return [EntryPointDescription(spec.entry_point, direction)]
            assert spec.url is not None
            return [HttpDescription(spec.name, spec.url, direction)]


def _describe_evaluator(name: str) -> ScorerDescription:
    if name == OFFLINE_EVALUATOR:
        return ProfanityDescription()
    return DetoxifyDescription(name.removeprefix("detoxify/"))


def encode_prompts(tokenizer: Any, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
    """Return the tokens of each prompt: a chat's by the model's chat template, text as it is.

    Raises `InvalidInputError` for a chat when the tokenizer has no template.
    """
    return [_encode(tokenizer, number, prompt) for number, prompt in enumerate(prompts, start=1)]


def _encode(tokenizer: Any, number: int, prompt: Prompt) -> tuple[int, ...]:
    if not prompt.messages:
        return encode_text(tokenizer, prompt.text)
    if not tokenizer.chat_template:
        raise InvalidInputError(
            f"prompt {number} is a chat, and the checkpoint's tokenizer has no chat template; "
            "write the prompt as text, or save the checkpoint with a template"
        )
    return encode_chat(
        tokenizer,
        [{"role": message.role, "content": message.content} for message in prompt.messages],
    )


def _choose_headline(spec: BehaviourSpec) -> Headline:
    return Headline.MEAN_SCORE if isinstance(spec, RepetitionSpec) else Headline.SHARE


def _choose_marking(spec: BehaviourSpec) -> Marking:
    return Marking.REPEATED if isinstance(spec, RepetitionSpec) else Marking.RISING
