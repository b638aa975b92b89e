"""From a spec's behaviours and prompt sets to what the core works with."""

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
"""Of an evaluator's name, before that of a checkpoint."""

PHRASE_THRESHOLD = 0.5
"""A phrase is in a response, which scores 1, or not, which scores 0."""

Definition = RepetitionDefinition | ToxicityDefinition | PhraseDefinition | CustomDefinition
"""What a behaviour is, whatever is demanded of it."""


def build_behaviour(
    spec: BehaviourSpec, surroundings: ScorerSurroundings, resources: ExitStack
) -> Behaviour:
    """Return the behaviour a spec describes, its scorers loaded; see `build_scorer`.

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
    """Return what tells whether responses show the behaviour that `spec` defines, scorers loaded.

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
    """Return how responses are drawn."""
    return Decoding(**spec.model_dump())


def describe_scorers(spec: Definition) -> list[ScorerDescription]:
    """Return the scorers a spec asks for, in order."""
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
    """Return the tokens of each prompt: a chat's by the model's chat template, text as it is.

    Raises `InvalidInputError` for a chat that the tokenizer has no template for, or that its
    template refuses.
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
