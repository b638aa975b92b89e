"""What a correction attributes: every question, its samples, and how its answer is averaged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from excise.names import Granularity, Score
from excise.specs.correction import MAX_BEHAVIOURS
from workers.attribution.attribution import Attribution
from workers.attribution.contrastive import (
    BehaviourRelevance,
    ContrastiveRelevance,
    Question,
    Side,
    ask,
    ask_responses,
    combine_general,
    list_general_questions,
)
from workers.correction.explained import collect_explained
from workers.correction.protection import unite_learned
from workers.correction.results import PreparedCorrection
from workers.domain import Relevance, Selection, TokenSequence
from workers.stages.inputs import CorrectionInputs

SubjectKey = tuple[Granularity, int | None, Side]


@dataclass(frozen=True)
class Subject:
    """One question about one set of samples; `behaviour` is None for general text."""

    granularity: Granularity
    question: Question
    behaviour: int | None
    samples: tuple[TokenSequence, ...]

    @property
    def key(self) -> SubjectKey:
        """Key of the subject's answer."""
        return self.granularity, self.behaviour, self.question.side

    def ask(self, seed: int, places: Selection | None = None) -> Attribution:
        """Return the attribution to compute, for a job with this seed."""
        # Random relevance must differ between behaviours.
        own = seed * MAX_BEHAVIOURS + (self.behaviour or 0)
        return ask(self.question, self.granularity, own, places)


def list_subjects(
    inputs: CorrectionInputs, prepared: PreparedCorrection, granularity: Granularity
) -> Iterator[Subject]:
    """Yield all subjects for the components of one granularity, general text first.

    The loss of protected slices is added to the loss of the reference text, token by token.
    """
    general, protected = list_reference(prepared), list_protected(prepared)
    for question in list_general_questions(
        inputs.attributor, predicts_damage=predicts_damage(inputs)
    ):
        samples = general + protected if question.side is Side.LOSS else general
        yield Subject(granularity, question, None, samples)
    for number, behaviour in enumerate(inputs.behaviours):
        explained = collect_explained(behaviour, prepared.behaviours[number], inputs.attributor)
        undesired = ask_responses(inputs.attributor, Side.UNDESIRED, explained.mass)
        yield Subject(granularity, undesired, number, explained.undesired)
        if explained.clean:
            clean = ask_responses(inputs.attributor, Side.CLEAN)
            yield Subject(granularity, clean, number, explained.clean)


def list_reference(prepared: PreparedCorrection) -> tuple[TokenSequence, ...]:
    """Return the reference text."""
    return tuple(TokenSequence(ids) for ids in prepared.reference.attribute)


def list_protected(prepared: PreparedCorrection) -> tuple[TokenSequence, ...]:
    """Return the protected samples, which are read besides the reference text."""
    return tuple(unite_learned(prepared.protection))


def predicts_damage(inputs: CorrectionInputs) -> bool:
    """Return whether the job's score needs the predicted damage of each removal."""
    return Score(inputs.spec.attribution.score) is Score.BENEFIT_DAMAGE


def combine_contrast(
    answers: Mapping[SubjectKey, Relevance],
    subjects: Mapping[SubjectKey, Subject],
    granularity: Granularity,
) -> ContrastiveRelevance:
    """Return the relevance of one granularity, combined from the answers to all of its subjects.

    Overwrites the answers.
    """
    own = {key: answer for key, answer in answers.items() if key[0] is granularity}
    general = {
        side: _count_reference(answer, subjects[granularity, None, side])
        for (_, number, side), answer in own.items()
        if number is None
    }
    means = {
        (number, side): average_explained(answer, subjects[granularity, number, side])
        for (_, number, side), answer in own.items()
        if number is not None
    }
    numbers = sorted({number for number, _ in means})
    return ContrastiveRelevance(
        combine_general(general),
        tuple(
            BehaviourRelevance(
                undesired=means[number, Side.UNDESIRED],
                clean=means.get((number, Side.CLEAN), {}),
            )
            for number in numbers
        ),
    )


def average_explained(relevance: Relevance, subject: Subject) -> dict[str, torch.Tensor]:
    """Return the mean relevance of responses over the tokens that are explained.

    Responses with few explained tokens are thus comparable to fully explained ones. If the
    attributor does not explain particular tokens, return the mean over all tokens. Overwrites the
    relevance.
    """
    if not subject.question.attributor.explains:
        return dict(relevance.mean)
    share = sum(sample.explained for sample in subject.samples) / relevance.tokens
    return {name: values.div_(share) for name, values in relevance.mean.items()}


def _count_reference(relevance: Relevance, subject: Subject) -> Relevance:
    """Return the loss per token of the reference text only, whatever else was read with it."""
    if subject.question.side is not Side.LOSS:
        return relevance
    reference = sum(len(one.token_ids) for one in subject.samples if not one.response_ids)
    if reference == relevance.tokens:
        return relevance
    scale = relevance.tokens / reference
    mean = {name: values.mul_(scale) for name, values in relevance.mean.items()}
    return replace(relevance, mean=mean)
