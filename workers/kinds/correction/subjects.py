"""What a correction's attribution asks: every question, its samples, and how it is averaged."""

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
    """One question of one set of samples; `behaviour` is None for general text."""

    granularity: Granularity
    question: Question
    behaviour: int | None
    samples: tuple[TokenSequence, ...]

    @property
    def key(self) -> SubjectKey:
        """What its answer is found by."""
        return self.granularity, self.behaviour, self.question.side

    def ask(self, seed: int, places: Selection | None = None) -> Attribution:
        """Return what an attributor is asked for a job of this seed."""
        # Random relevance of two behaviours must not be the same.
        own = seed * MAX_BEHAVIOURS + (self.behaviour or 0)
        return ask(self.question, self.granularity, own, places)


def list_subjects(
    inputs: CorrectionInputs, prepared: PreparedCorrection, granularity: Granularity
) -> Iterator[Subject]:
    """Yield everything that is asked of the components of one granularity, general text first.

    What protected slices would lose counts with the reference text's loss, token by token.
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
    """Return what is protected beside it."""
    return tuple(unite_learned(prepared.protection))


def predicts_damage(inputs: CorrectionInputs) -> bool:
    """Whether the job's score needs what each removal costs."""
    return Score(inputs.spec.attribution.score) is Score.BENEFIT_DAMAGE


def combine_contrast(
    answers: Mapping[SubjectKey, Relevance],
    subjects: Mapping[SubjectKey, Subject],
    granularity: Granularity,
) -> ContrastiveRelevance:
    """Return the relevance of one granularity from the answers of each set of samples.

    The answers are overwritten.
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

    So responses of which few tokens are explained compare with those of which all are. Where
    nothing is explained in particular, the mean over all tokens. The relevance is overwritten.
    """
    if not subject.question.attributor.explains:
        return dict(relevance.mean)
    share = sum(sample.explained for sample in subject.samples) / relevance.tokens
    return {name: values.div_(share) for name, values in relevance.mean.items()}


def _count_reference(relevance: Relevance, subject: Subject) -> Relevance:
    """Return loss per token of the reference text, whatever was read beside it."""
    if subject.question.side is not Side.LOSS:
        return relevance
    reference = sum(len(one.token_ids) for one in subject.samples if not one.response_ids)
    if reference == relevance.tokens:
        return relevance
    scale = relevance.tokens / reference
    mean = {name: values.mul_(scale) for name, values in relevance.mean.items()}
    return replace(relevance, mean=mean)
