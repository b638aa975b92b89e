"""Stage 2: relevance of every component on general text and for each behaviour's responses.

The samples are cut into shards that any worker may do: sums over each, added in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from service.jobs.specs.correction import MAX_BEHAVIOURS
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
from workers.attribution.sums import (
    RelevanceSums,
    finish,
    merge_sums,
    parse_sums,
    serialise_sums,
)
from workers.correction.measurement import collect_base_undesired, collect_clean
from workers.correction.results import PreparedCorrection
from workers.domain import Granularity, Relevance, TokenSequence
from workers.progress import Advance
from workers.pruning.scoring import Score
from workers.tasks.context import JobContext, StageOutput, compute_key
from workers.tasks.loading import CorrectionInputs
from workers.tasks.sharding import ShardedStage, ShardedWork, run_shards

SHARD_TOKENS = 32_768
"""Most tokens of a shard: large, for whoever helps with one loads the model first."""


@dataclass(frozen=True)
class _Subject:
    """One question of one set of samples; `behaviour` is None for general text."""

    granularity: Granularity
    question: Question
    behaviour: int | None
    samples: tuple[TokenSequence, ...]

    @property
    def key(self) -> tuple[Granularity, int | None, Side]:
        """What its answer is found by."""
        return self.granularity, self.behaviour, self.question.side


@dataclass(frozen=True)
class _Part:
    """The samples of one shard, all of one subject."""

    subject: _Subject
    samples: tuple[TokenSequence, ...]


def run(
    context: JobContext, inputs: CorrectionInputs, prepared: PreparedCorrection, upstream: str
) -> StageOutput:
    """Return the stage's result, the serialised relevance of every granularity."""
    key = {
        "prepare": upstream,
        "attributor": inputs.spec.attribution.attributor,
        "predicts_damage": _predicts_damage(inputs),
        "granularities": [granularity.value for granularity in inputs.granularities],
        "seed": inputs.spec.seed,
        "shard_tokens": SHARD_TOKENS,
    }
    stage = ShardedStage("attribute", compute_key("attribute", key), upstream)
    parts = _cut_parts(_list_subjects(inputs, prepared))
    work = build_work(inputs, prepared)
    return context.run_stage(
        "attribute",
        key,
        lambda progress: _combine(parts, run_shards(context, stage, work, progress)),
    )


def build_work(inputs: CorrectionInputs, prepared: PreparedCorrection) -> ShardedWork:
    """The stage's work; the same on every worker."""
    parts = _cut_parts(_list_subjects(inputs, prepared))

    def compute(position: int, advance: Advance) -> bytes:
        part = parts[position]
        return serialise_sums(_answer(inputs, part.subject, part.samples, advance))

    return ShardedWork(tuple(len(part.samples) for part in parts), compute)


def answer_undesired(
    inputs: CorrectionInputs,
    granularity: Granularity,
    undesired: Sequence[TokenSequence],
    advance: Advance,
) -> dict[str, torch.Tensor]:
    """The job's own mean relevance of undesired responses, as that of the base model's."""
    question = ask_responses(inputs.attributor, Side.UNDESIRED)
    subject = _Subject(granularity, question, None, tuple(undesired))
    relevance = finish(_answer(inputs, subject, undesired, advance), in_place=True)
    return _average_explained(relevance, subject)


def _average_explained(relevance: Relevance, subject: _Subject) -> dict[str, torch.Tensor]:
    """Return the mean relevance of responses over the tokens that are explained.

    So responses of which few tokens are explained compare with those of which all are. Where
    nothing is explained in particular, the mean over all tokens.
    """
    if not subject.question.attributor.explains:
        return dict(relevance.mean)
    share = sum(sample.explained for sample in subject.samples) / relevance.tokens
    return {name: values.div_(share) for name, values in relevance.mean.items()}


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


def _list_subjects(inputs: CorrectionInputs, prepared: PreparedCorrection) -> tuple[_Subject, ...]:
    """Everything that is asked, general text first, for every granularity."""
    general = tuple(TokenSequence(ids) for ids in prepared.reference.attribute)
    asked = [
        (question, None, general)
        for question in list_general_questions(
            inputs.attributor, predicts_damage=_predicts_damage(inputs)
        )
    ]
    subjects = list[tuple[Question, int | None, tuple[TokenSequence, ...]]](asked)
    for number, behaviour in enumerate(inputs.behaviours):
        tune = prepared.behaviours[number].triggering(held_out=False)
        undesired = collect_base_undesired(behaviour, tune)
        clean = collect_clean(behaviour, tune, len(undesired))
        for side, samples in ((Side.UNDESIRED, undesired), (Side.CLEAN, clean)):
            if samples and (side is Side.UNDESIRED or inputs.attributor.reads_samples):
                subjects.append((ask_responses(inputs.attributor, side), number, samples))
    return tuple(
        _Subject(granularity, question, number, samples)
        for granularity in inputs.granularities
        for question, number, samples in subjects
    )


def _answer(
    inputs: CorrectionInputs,
    subject: _Subject,
    samples: Sequence[TokenSequence],
    advance: Advance,
) -> RelevanceSums:
    return sum_answer(
        subject.question,
        inputs.checkpoint.model,
        inputs.family,
        subject.granularity,
        samples,
        inputs.checkpoint.pad_id,
        # Random relevance of two behaviours must not be the same.
        inputs.spec.seed * MAX_BEHAVIOURS + (subject.behaviour or 0),
        advance,
    )


def _cut_parts(subjects: Sequence[_Subject]) -> tuple[_Part, ...]:
    """The shards in order: every subject over its samples."""
    return tuple(
        _Part(subject, run)
        for subject in subjects
        for run in cut_samples(subject.samples, SHARD_TOKENS)
    )


def _combine(parts: Sequence[_Part], results: Sequence[bytes]) -> bytes:
    """Return the relevance of every granularity from the sums of every shard, added in order."""
    sums: dict[tuple[Granularity, int | None, Side], list[RelevanceSums]] = {}
    for part, data in zip(parts, results, strict=True):
        sums.setdefault(part.subject.key, []).append(parse_sums(data))
    subjects = {part.subject.key: part.subject for part in parts}
    answers = {key: finish(merge_sums(shards), in_place=True) for key, shards in sums.items()}
    granularities = dict.fromkeys(granularity for granularity, _, _ in answers)
    return serialise_relevance(
        {
            granularity: ContrastiveRelevance(
                combine_general(
                    {
                        side: answer
                        for (own, number, side), answer in answers.items()
                        if own is granularity and number is None
                    }
                ),
                _combine_behaviours(
                    {
                        (number, side): _average_explained(answer, subjects[own, number, side])
                        for (own, number, side), answer in answers.items()
                        if own is granularity and number is not None
                    }
                ),
            )
            for granularity in granularities
        }
    )


def _combine_behaviours(
    answers: Mapping[tuple[int, Side], dict[str, torch.Tensor]],
) -> tuple[BehaviourRelevance, ...]:
    """Return the relevance for each behaviour, in order."""
    numbers = sorted({number for number, _ in answers})
    return tuple(
        BehaviourRelevance(
            undesired=answers[number, Side.UNDESIRED],
            clean=answers.get((number, Side.CLEAN), {}),
        )
        for number in numbers
    )
