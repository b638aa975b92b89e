"""Stage 2: relevance of every component on general text and on the undesired responses.

The samples are cut into shards that any worker may do: sums over each, added in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workers.attribution.attributors import sum_relevance
from workers.attribution.contrastive import ContrastiveRelevance, serialise_relevance
from workers.attribution.sums import Statistic, finish, merge_sums, parse_sums, serialise_sums
from workers.attribution.targets import Target
from workers.correction.results import PreparedCorrection
from workers.domain import Relevance, TokenSequence
from workers.progress import Advance
from workers.tasks.context import JobContext, StageOutput, compute_key
from workers.tasks.loading import CorrectionInputs
from workers.tasks.sharding import ShardedStage, ShardedWork, run_shards

SHARD_TOKENS = 32_768
"""Most tokens of a shard: large, for whoever helps with one loads the model first."""

STATISTICS = frozenset({Statistic.MEAN, Statistic.MEAN_ABSOLUTE})
"""What the scores are made of; for single weights each is as large as the model."""


@dataclass(frozen=True)
class _Part:
    """The samples of one shard, all of one reference set."""

    samples: tuple[TokenSequence, ...]
    target: Target
    salt: int
    """Added to the seed: random relevance of the two sets must not be the same."""


def run(
    context: JobContext, inputs: CorrectionInputs, prepared: PreparedCorrection, upstream: str
) -> StageOutput:
    """Return the stage's result, a serialised `ContrastiveRelevance`."""
    key = {
        "prepare": upstream,
        "attributor": inputs.attributor.value,
        "granularity": inputs.granularity.value,
        "seed": inputs.spec.seed,
        "shard_tokens": SHARD_TOKENS,
    }
    stage = ShardedStage("attribute", compute_key("attribute", key), upstream)
    parts = _cut_parts(prepared)
    work = build_work(inputs, prepared)
    return context.run_stage(
        "attribute",
        key,
        lambda progress: _combine(parts, run_shards(context, stage, work, progress)),
    )


def build_work(inputs: CorrectionInputs, prepared: PreparedCorrection) -> ShardedWork:
    """The stage's work; the same on every worker."""
    parts = _cut_parts(prepared)

    def compute(position: int, advance: Advance) -> bytes:
        part = parts[position]
        sums = sum_relevance(
            inputs.checkpoint.model,
            inputs.family,
            inputs.attributor,
            inputs.granularity,
            part.samples,
            part.target,
            inputs.checkpoint.pad_id,
            seed=inputs.spec.seed + part.salt,
            statistics=STATISTICS,
            advance=advance,
        )
        return serialise_sums(sums)

    return ShardedWork(tuple(len(part.samples) for part in parts), compute)


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


def _cut_parts(prepared: PreparedCorrection) -> tuple[_Part, ...]:
    """The shards in order: general text, explained by its top logit, before responses.

    An undesired response is explained by the margin of each emitted token over the runner-up.
    """
    general = [TokenSequence(ids) for ids in prepared.reference.attribute]
    undesired = [outcome.undesired_sequence for outcome in prepared.triggering(held_out=False)]
    return tuple(
        _Part(run, target, salt)
        for salt, (samples, target) in enumerate(
            ((general, Target.TOP_LOGIT), (undesired, Target.EMITTED_MINUS_RUNNER_UP))
        )
        for run in cut_samples(samples, SHARD_TOKENS)
    )


def _combine(parts: Sequence[_Part], results: Sequence[bytes]) -> bytes:
    """Return the relevance of both sets from the sums of every shard, added in order."""

    def add(salt: int) -> Relevance:
        sums = [
            parse_sums(data) for part, data in zip(parts, results, strict=True) if part.salt == salt
        ]
        return finish(merge_sums(sums), in_place=True)

    return serialise_relevance(ContrastiveRelevance(general=add(0), undesired=add(1)))
