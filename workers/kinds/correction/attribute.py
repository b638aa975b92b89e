"""Stage 2: relevance of every component on general text and for each behaviour's responses.

The samples are cut into shards that any worker may do; the sums of each are added in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from excise.names import Granularity, Score
from excise.specs.correction import MAX_BEHAVIOURS
from workers.attribution.accumulation import Storage
from workers.attribution.attribution import Pass
from workers.attribution.contrastive import (
    BehaviourRelevance,
    ContrastiveRelevance,
    Question,
    Side,
    ask_responses,
    combine_general,
    list_general_questions,
    serialise_relevance,
    sum_answer,
)
from workers.attribution.sums import RelevanceSums, finish, merge_sums, parse_sums, serialise_sums
from workers.attribution.targets import TokenMass
from workers.correction.explained import collect_explained
from workers.correction.protection import unite_learned
from workers.correction.results import PreparedCorrection
from workers.domain import Relevance, TokenSequence
from workers.progress import Advance, Progress
from workers.stages.context import ShardedStage, ShardedWork, StageContext, StageOutput, compute_key
from workers.stages.inputs import CorrectionInputs

SHARD_TOKENS = 32_768
"""Most tokens of a shard: large, for whoever helps with one loads the model first."""

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


@dataclass(frozen=True)
class Part:
    """The samples of one shard, all of one subject."""

    subject: Subject
    samples: tuple[TokenSequence, ...]
    first_index: int
    """Of the first sample, among all of the subject."""


def run(
    context: StageContext,
    inputs: CorrectionInputs,
    prepared: PreparedCorrection,
    upstream: StageOutput,
) -> StageOutput:
    """Return the stage's result, the serialised relevance of every granularity."""
    key = {
        "prepare": upstream.sha256,
        "attributor": inputs.spec.attribution.attributor,
        "predicts_damage": _predicts_damage(inputs),
        "protects": bool(prepared.protection),
        "granularities": [granularity.value for granularity in inputs.granularities],
        "seed": inputs.spec.seed,
        "shard_tokens": SHARD_TOKENS,
    }
    stage = ShardedStage("attribute", compute_key("attribute", key), upstream.sha256)

    def work(progress: Progress) -> bytes:
        results = context.run_shards(stage, build_work(inputs, prepared), progress)
        return _combine(cut_parts(inputs, prepared), results)

    return context.run_stage("attribute", key, work)


def cut_parts(inputs: CorrectionInputs, prepared: PreparedCorrection) -> tuple[Part, ...]:
    """The shards in order: every subject over its samples."""
    parts: list[Part] = []
    for subject in _list_subjects(inputs, prepared):
        runs = cut_samples(subject.samples, SHARD_TOKENS)
        firsts = accumulate((len(run) for run in runs), initial=0)
        parts += [Part(subject, run, first) for run, first in zip(runs, firsts, strict=False)]
    return tuple(parts)


def build_work(inputs: CorrectionInputs, prepared: PreparedCorrection) -> ShardedWork:
    """The stage's work; the same on every worker."""
    parts = cut_parts(inputs, prepared)

    def compute(position: int, advance: Advance) -> bytes:
        with inputs.storing_sums() as storage:
            return serialise_sums(_answer(inputs, parts[position], storage, advance))

    return ShardedWork(tuple(len(part.samples) for part in parts), compute)


def answer_undesired(
    inputs: CorrectionInputs,
    granularity: Granularity,
    number: int,
    undesired: Sequence[TokenSequence],
    mass: TokenMass | None,
    advance: Advance,
) -> dict[str, torch.Tensor]:
    """The job's own mean relevance of a behaviour's responses, as that of the base model's."""
    question = ask_responses(inputs.attributor, Side.UNDESIRED, mass)
    subject = Subject(granularity, question, number, tuple(undesired))
    part = Part(subject, subject.samples, 0)
    with inputs.storing_sums() as storage:
        relevance = finish(_answer(inputs, part, storage, advance), in_place=True)
    return _average_explained(relevance, subject)


def cut_samples(samples: Sequence[TokenSequence], most: int) -> list[tuple[TokenSequence, ...]]:
    """Return the samples in runs of at most `most` tokens (at least one sample), in order."""
    runs: list[list[TokenSequence]] = []
    tokens = 0
    for sample in samples:
        tokens += len(sample.token_ids)
        if not runs or tokens > most:
            runs.append([])
            tokens = len(sample.token_ids)
        runs[-1].append(sample)
    return [tuple(run) for run in runs]


def _predicts_damage(inputs: CorrectionInputs) -> bool:
    return Score(inputs.spec.attribution.score) is Score.BENEFIT_DAMAGE


def _list_subjects(inputs: CorrectionInputs, prepared: PreparedCorrection) -> Iterator[Subject]:
    """Everything that is asked, general text first, for every granularity.

    What protected slices would lose counts with the reference text's loss, token by token.
    """
    general = tuple(TokenSequence(ids) for ids in prepared.reference.attribute)
    protected = tuple(unite_learned(prepared.protection))
    questions = list_general_questions(inputs.attributor, predicts_damage=_predicts_damage(inputs))
    for granularity in inputs.granularities:
        for question in questions:
            samples = general + protected if question.side is Side.LOSS else general
            yield Subject(granularity, question, None, samples)
        for number, behaviour in enumerate(inputs.behaviours):
            explained = collect_explained(behaviour, prepared.behaviours[number], inputs.attributor)
            undesired = ask_responses(inputs.attributor, Side.UNDESIRED, explained.mass)
            yield Subject(granularity, undesired, number, explained.undesired)
            if explained.clean:
                clean = ask_responses(inputs.attributor, Side.CLEAN)
                yield Subject(granularity, clean, number, explained.clean)


def _answer(
    inputs: CorrectionInputs, part: Part, storage: Storage, advance: Advance
) -> RelevanceSums:
    subject = part.subject
    return sum_answer(
        subject.question,
        inputs.base,
        subject.granularity,
        part.samples,
        # Random relevance of two behaviours must not be the same.
        inputs.spec.seed * MAX_BEHAVIOURS + (subject.behaviour or 0),
        Pass(first_index=part.first_index, storage=storage, advance=advance),
    )


def _combine(parts: Sequence[Part], results: Sequence[bytes]) -> bytes:
    """Return the relevance of every granularity from the sums of every shard, added in order."""
    sums: dict[SubjectKey, list[RelevanceSums]] = {}
    for part, data in zip(parts, results, strict=True):
        sums.setdefault(part.subject.key, []).append(parse_sums(data))
    subjects = {part.subject.key: part.subject for part in parts}
    answers = {key: finish(merge_sums(shards), in_place=True) for key, shards in sums.items()}
    return serialise_relevance(
        {
            granularity: _combine_contrast(answers, subjects, granularity)
            for granularity in dict.fromkeys(granularity for granularity, _, _ in answers)
        }
    )


def _combine_contrast(
    answers: Mapping[SubjectKey, Relevance],
    subjects: Mapping[SubjectKey, Subject],
    granularity: Granularity,
) -> ContrastiveRelevance:
    """Return the relevance of one granularity from the answers of each set of samples."""
    own = {key: answer for key, answer in answers.items() if key[0] is granularity}
    general = {
        side: _count_reference(answer, subjects[granularity, None, side])
        for (_, number, side), answer in own.items()
        if number is None
    }
    means = {
        (number, side): _average_explained(answer, subjects[granularity, number, side])
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


def _count_reference(relevance: Relevance, subject: Subject) -> Relevance:
    """Return general relevance per token of the reference text, whatever was read beside it."""
    reference = sum(len(one.token_ids) for one in subject.samples if not one.response_ids)
    if reference == relevance.tokens:
        return relevance
    scale = relevance.tokens / reference
    mean = {name: values.mul_(scale) for name, values in relevance.mean.items()}
    return replace(relevance, mean=mean)


def _average_explained(relevance: Relevance, subject: Subject) -> dict[str, torch.Tensor]:
    """Return the mean relevance of responses over the tokens that are explained.

    So responses of which few tokens are explained compare with those of which all are. Where
    nothing is explained in particular, the mean over all tokens.
    """
    if not subject.question.attributor.explains:
        return dict(relevance.mean)
    share = sum(sample.explained for sample in subject.samples) / relevance.tokens
    return {name: values.div_(share) for name, values in relevance.mean.items()}
