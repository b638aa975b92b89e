"""Conversion of a spec's behaviours and prompt sets into the core's types."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from excise.intake.prompt_sets import Prompt
from excise.names import Direction, Headline, MeasureName
from excise.specs.behaviours import (
    BehaviourSpec,
    CustomDefinition,
    DecodingSpec,
    PhraseDefinition,
    RepetitionDefinition,
    ToxicityDefinition,
)
from workers.correction.behaviour import Behaviour, Marking
from workers.models.encoding import ChatTemplateError
from workers.models.generation import Decoding
from workers.models.prompts import convert_prompts, encode_all
from workers.models.tokenizer import Tokenizer
from workers.scorers.build import (
    DetoxifyDescription,
    HttpDescription,
    PhraseDescription,
    PluginDescription,
    ScorerDescription,
    ScorerSurroundings,
    build_scorer,
)
from workers.scorers.detector import Detector
from workers.scorers.phrases import Phrases
from workers.scorers.scorer import BehaviourScorer, LocatingScorer
from workers.scorers.uniqueness import UniquenessScorer
from workers.stages.context import InvalidInputError

DETOXIFY_PREFIX = "detoxify/"
"""Prefix of an evaluator's name; a checkpoint's name follows."""

PHRASE_THRESHOLD = 0.5
"""Scores are 1 if the phrase is in the response and 0 if not, so any value between them would do.
"""

Definition = RepetitionDefinition | ToxicityDefinition | PhraseDefinition | CustomDefinition
"""What a behaviour is, without the limits set for it."""


def build_behaviour(
    spec: BehaviourSpec, surroundings: ScorerSurroundings, resources: ExitStack
) -> Behaviour:
    """Return the behaviour that a spec describes, with its scorers loaded; see `build_scorer`.

    Raises `ScorerError`.
    """
    detector = build_detector(spec, surroundings, resources)
    return Behaviour(
        name=spec.name,
        kind=spec.kind,
        decoding=build_decoding(spec.decoding),
        scorers=detector.scorers,
        threshold=detector.threshold,
        agreeing=detector.agreeing,
        headline=_choose_headline(spec),
        min_effect=spec.min_effect,
        marking=_choose_marking(spec, detector.scorers),
        max_remaining=spec.max_remaining,
        is_graded=not isinstance(spec, CustomDefinition),
    )


def build_detector(
    spec: Definition, surroundings: ScorerSurroundings, resources: ExitStack
) -> Detector:
    """Return what detects the behaviour that `spec` defines in responses, with scorers loaded.

    See `build_scorer`. Raises `ScorerError`.
    """
    return Detector(
        scorers=tuple(
            build_scorer(description, surroundings, resources)
            for description in describe_scorers(spec)
        ),
        threshold=PHRASE_THRESHOLD if isinstance(spec, PhraseDefinition) else spec.threshold,
        agreeing=spec.needed_evaluators if isinstance(spec, ToxicityDefinition) else 1,
    )


def build_decoding(spec: DecodingSpec) -> Decoding:
    """Return how responses are generated."""
    return Decoding(**spec.model_dump())


def describe_scorers(spec: Definition) -> list[ScorerDescription]:
    """Return the scorers that a spec asks for, in order."""
    match spec:
        case RepetitionDefinition():
            return [PluginDescription(UniquenessScorer.name, UniquenessScorer.direction)]
        case ToxicityDefinition():
            return [_describe_evaluator(name) for name in spec.evaluators]
        case PhraseDefinition():
            phrases = Phrases(
                tuple(spec.phrases or ()),
                spec.pattern,
                spec.ignore_case,
                spec.whole_words,
                spec.parts,
            )
            return [PhraseDescription(spec.name, phrases)]
        case CustomDefinition():
            direction = Direction(spec.direction)
            if spec.entry_point is not None:
                return [PluginDescription(spec.entry_point, direction)]
            assert spec.url is not None
            return [HttpDescription(spec.name, spec.url, direction)]


def _describe_evaluator(name: str) -> ScorerDescription:
    if name.startswith(DETOXIFY_PREFIX):
        return DetoxifyDescription(name.removeprefix(DETOXIFY_PREFIX))
    return PluginDescription(name, Direction.LOWER_IS_BETTER)


def encode_prompts(tokenizer: Tokenizer, prompts: Sequence[Prompt]) -> list[tuple[int, ...]]:
    """Return the tokens of each prompt; chats are rendered with the model's chat template.

    Raises `InvalidInputError` for a chat if the tokenizer has no template, or if its template
    rejects the chat.
    """
    try:
        return encode_all(tokenizer, convert_prompts(prompts), chat=False)
    except ChatTemplateError as error:
        raise InvalidInputError(str(error)) from error


def _choose_headline(spec: BehaviourSpec) -> Headline:
    return MeasureName.MEAN_SCORE if isinstance(spec, RepetitionDefinition) else MeasureName.SHARE


def _choose_marking(spec: BehaviourSpec, scorers: Sequence[BehaviourScorer]) -> Marking:
    match spec:
        case RepetitionDefinition():
            return Marking.REPEATED
        case PhraseDefinition():
            return Marking.SAID
        case CustomDefinition() if all(isinstance(own, LocatingScorer) for own in scorers):
            return Marking.SAID
        case _:
            return Marking.RISING
