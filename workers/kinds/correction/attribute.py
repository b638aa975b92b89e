"""Stage 2: compute relevance of every component on general text and on each behaviour's responses.

For neurons and heads the samples are cut into shards that any worker can compute; the sums of the
shards are added in order. Sums for single weights are as large as the model, so they are never
stored: the job's own worker computes them in segments of layers and keeps only the weights that the
search may prune.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean

import torch

from excise.names import Granularity
from workers.attribution.attribution import Pass
from workers.attribution.attributors import sum_relevance
from workers.attribution.contrastive import (
    FORMAT,
    ContrastiveRelevance,
    Side,
    ask_responses,
    serialise_relevance,
)
from workers.attribution.sums import RelevanceSums, finish, merge_sums, parse_sums, serialise_sums
from workers.attribution.targets import TokenMass
from workers.correction.results import PreparedCorrection
from workers.domain import Selection, TokenSequence
from workers.kinds.correction import weights
from workers.kinds.correction.subjects import (
    Subject,
    SubjectKey,
    average_explained,
    combine_contrast,
    list_subjects,
    predicts_damage,
)
from workers.progress import BACKWARD, FORWARD, Advance, Counter, Progress
from workers.stages.context import ShardedStage, ShardedWork, StageContext, StageOutput, compute_key
from workers.stages.inputs import CorrectionInputs

SHARD_TOKENS = 32_768
"""Largest number of tokens per shard; high, because a worker that helps first loads the model."""


@dataclass(frozen=True)
class Part:
    """The samples of one shard; all belong to one subject."""

    subject: Subject
    samples: tuple[TokenSequence, ...]
    first_index: int
    """Index of the part's first sample among all samples of the subject."""


def run(
    context: StageContext,
    inputs: CorrectionInputs,
    prepared: PreparedCorrection,
    upstream: StageOutput,
) -> StageOutput:
    """Return the stage's result: the serialised relevance of every granularity."""
    key = {
        "prepare": upstream.sha256,
        "attributor": inputs.spec.attribution.attributor,
        "predicts_damage": predicts_damage(inputs),
        "protects": bool(prepared.protection),
        "granularities": [granularity.value for granularity in inputs.granularities],
        "seed": inputs.spec.seed,
        "shard_tokens": SHARD_TOKENS,
        "format": FORMAT,
    }
    has_weights = Granularity.WEIGHT in inputs.granularities
    if has_weights:
        key["shortlist"] = weights.describe_shortlist(inputs, prepared)
    hashed = compute_key("attribute", key)
    stage = ShardedStage("attribute", hashed, upstream.sha256)

    def work(progress: Progress) -> bytes:
        shards = build_work(inputs, prepared)
        plan = weights.build_plan(inputs, prepared) if has_weights else None
        parts = [shards.part]
        if plan is not None:
            parts += plan.list_parts(inputs.base.layers)
        counter = Counter(progress, parts)
        found: dict[Granularity, ContrastiveRelevance] = {}
        if shards.sizes:
            results = context.run_shards(stage, shards, counter)
            found |= combine(cut_parts(inputs, prepared), results)
        if plan is not None:
            found[Granularity.WEIGHT] = weights.shortlist(context, inputs, plan, hashed, counter)
        return serialise_relevance(found)

    output = context.run_stage("attribute", key, work)
    if has_weights:
        context.forget(weights.SEGMENTS, hashed)
    return output


def cut_parts(inputs: CorrectionInputs, prepared: PreparedCorrection) -> tuple[Part, ...]:
    """Return the shards in order: the samples of every subject, for neurons and heads only."""
    parts: list[Part] = []
    for granularity in inputs.granularities:
        if granularity is Granularity.WEIGHT:
            continue
        for subject in list_subjects(inputs, prepared, granularity):
            runs = cut_samples(subject.samples, SHARD_TOKENS)
            firsts = accumulate((len(run) for run in runs), initial=0)
            parts += [Part(subject, run, first) for run, first in zip(runs, firsts, strict=False)]
    return tuple(parts)


def build_work(inputs: CorrectionInputs, prepared: PreparedCorrection) -> ShardedWork:
    """Return the part of the stage's work that is shared, which is the same on every worker."""
    parts = cut_parts(inputs, prepared)

    def compute(position: int, advance: Advance) -> bytes:
        part = parts[position]
        asked = part.subject.ask(inputs.spec.seed)
        run = Pass(first_index=part.first_index, advance=advance)
        return serialise_sums(sum_relevance(inputs.base, asked, part.samples, run))

    lengths = [len(sample.token_ids) for part in parts for sample in part.samples]
    return ShardedWork(
        tuple(len(part.samples) for part in parts),
        compute,
        cost=(FORWARD + BACKWARD) * (fmean(lengths) if lengths else 1.0),
    )


def answer_undesired(
    inputs: CorrectionInputs,
    places: Mapping[Granularity, Selection],
    granularity: Granularity,
    number: int,
    undesired: Sequence[TokenSequence],
    mass: TokenMass | None,
    advance: Advance,
) -> dict[str, torch.Tensor]:
    """Return the mean relevance of a behaviour's responses by the job's own attributor.

    It is computed on the model in its current state, averaged as the base model's relevance was. If
    `places` holds the granularity, only the components there get relevance, as a tensor of shape
    `(place,)` for each module.
    """
    question = ask_responses(inputs.attributor, Side.UNDESIRED, mass)
    subject = Subject(granularity, question, number, tuple(undesired))
    asked = subject.ask(inputs.spec.seed, places.get(granularity))
    sums = sum_relevance(inputs.base, asked, subject.samples, Pass(advance=advance))
    return average_explained(finish(sums, in_place=True), subject)


def cut_samples(samples: Sequence[TokenSequence], most: int) -> list[tuple[TokenSequence, ...]]:
    """Return the samples in runs of at most `most` tokens (at least one sample each), in order."""
    runs: list[list[TokenSequence]] = []
    tokens = 0
    for sample in samples:
        tokens += len(sample.token_ids)
        if not runs or tokens > most:
            runs.append([])
            tokens = len(sample.token_ids)
        runs[-1].append(sample)
    return [tuple(run) for run in runs]


def combine(
    parts: Sequence[Part], results: Sequence[bytes]
) -> dict[Granularity, ContrastiveRelevance]:
    """Return the relevance of every granularity; the sums of all shards are added in order."""
    sums: dict[SubjectKey, list[RelevanceSums]] = {}
    for part, data in zip(parts, results, strict=True):
        sums.setdefault(part.subject.key, []).append(parse_sums(data))
    subjects = {part.subject.key: part.subject for part in parts}
    answers = {key: finish(merge_sums(shards), in_place=True) for key, shards in sums.items()}
    return {
        granularity: combine_contrast(answers, subjects, granularity)
        for granularity in dict.fromkeys(granularity for granularity, _, _ in answers)
    }
