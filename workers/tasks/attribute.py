"""Stage 2: relevance of every component on general text and on the undesired responses.

The samples are cut into shards that any worker may do: sums over each, added in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from workers.attribution.contrastive import (
    Question,
    Side,
    combine_answers,
    list_questions,
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
from workers.correction.results import PreparedCorrection
from workers.domain import TokenSequence
from workers.progress import Advance
from workers.pruning.scoring import Score
from workers.tasks.context import JobContext, StageOutput, compute_key
from workers.tasks.loading import CorrectionInputs
from workers.tasks.sharding import ShardedStage, ShardedWork, run_shards

SHARD_TOKENS = 32_768
"""Most tokens of a shard: large, for whoever helps with one loads the model first."""


@dataclass(frozen=True)
class Part:
    """The samples of one shard, all of one question."""

    question: Question
    samples: tuple[TokenSequence, ...]
    first_index: int
    """Of the first sample, among all that the question is asked of."""


def run(
    context: JobContext, inputs: CorrectionInputs, prepared: PreparedCorrection, upstream: str
) -> StageOutput:
    """Return the stage's result, a serialised `ContrastiveRelevance`."""
    questions = _list_questions(inputs)
    key = {
        "prepare": upstream,
        "questions": [[question.side, question.attributor] for question in questions],
        "granularity": inputs.granularity.value,
        "seed": inputs.spec.seed,
        "shard_tokens": SHARD_TOKENS,
    }
    stage = ShardedStage("attribute", compute_key("attribute", key), upstream)
    parts = cut_parts(inputs, prepared)
    work = build_work(inputs, parts)
    return context.run_stage(
        "attribute",
        key,
        lambda progress: _combine(parts, run_shards(context, stage, work, progress)),
    )


def cut_parts(inputs: CorrectionInputs, prepared: PreparedCorrection) -> tuple[Part, ...]:
    """The shards in order: every question over the samples it is asked of."""
    general = [TokenSequence(ids) for ids in prepared.reference.attribute]
    undesired = [outcome.undesired_sequence for outcome in prepared.triggering(held_out=False)]
    parts: list[Part] = []
    for question in _list_questions(inputs):
        runs = cut_samples(general if question.is_general else undesired, SHARD_TOKENS)
        firsts = accumulate((len(run) for run in runs), initial=0)
        parts += [Part(question, run, first) for run, first in zip(runs, firsts, strict=False)]
    return tuple(parts)


def build_work(inputs: CorrectionInputs, parts: Sequence[Part]) -> ShardedWork:
    """The stage's work; the same on every worker."""

    def compute(position: int, advance: Advance) -> bytes:
        part = parts[position]
        return serialise_sums(_answer(inputs, part, advance))

    return ShardedWork(tuple(len(part.samples) for part in parts), compute)


def answer_undesired(
    inputs: CorrectionInputs, undesired: Sequence[TokenSequence], advance: Advance
) -> RelevanceSums:
    """The job's own relevance of undesired responses, as for those of the base model."""
    part = Part(_list_questions(inputs)[-1], tuple(undesired), 0)
    return _answer(inputs, part, advance)


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


def _list_questions(inputs: CorrectionInputs) -> tuple[Question, ...]:
    score = Score(inputs.spec.attribution.score)
    return list_questions(inputs.attributor, predicts_damage=score is Score.BENEFIT_DAMAGE)


def _answer(inputs: CorrectionInputs, part: Part, advance: Advance) -> RelevanceSums:
    return sum_answer(
        part.question,
        inputs.checkpoint.model,
        inputs.family,
        inputs.granularity,
        part.samples,
        inputs.checkpoint.pad_id,
        inputs.spec.seed,
        advance,
        part.first_index,
    )


def _combine(parts: Sequence[Part], results: Sequence[bytes]) -> bytes:
    """Return the contrast from the sums of every shard, added in order."""
    sums: dict[Side, list[RelevanceSums]] = {}
    for part, data in zip(parts, results, strict=True):
        sums.setdefault(part.question.side, []).append(parse_sums(data))
    answers = {side: finish(merge_sums(shards), in_place=True) for side, shards in sums.items()}
    return serialise_relevance(combine_answers(answers))
