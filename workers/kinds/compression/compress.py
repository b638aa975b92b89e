"""Stage 2 of a compression: score weights, select some and set them to zero.

Where scores are sums over the calibration samples, the samples are cut into shards that any worker
can compute.
"""

from __future__ import annotations

from itertools import accumulate
from math import ceil
from statistics import fmean

from excise.names import Attributor, Calibration, Statistic
from workers.attribution.sums import finish, merge_sums, parse_sums, serialise_sums
from workers.compression.compress import compress, prune_by_relevance, sum_scores
from workers.compression.plan import CompressionPlan, NOfM, Pattern, RowShare
from workers.domain import TokenSequence
from workers.families import count_features
from workers.kinds.compression.results import PreparedCompression, pack_masks
from workers.kinds.correction.attribute import cut_samples
from workers.progress import BACKWARD, FORWARD, Advance, Counter, Progress
from workers.pruning.selection import count_share
from workers.stages.context import (
    InvalidInputError,
    ShardedStage,
    ShardedWork,
    StageContext,
    StageOutput,
    compute_key,
)
from workers.stages.inputs import CompressionInputs

SHARD_TOKENS = 32_768
"""Largest number of tokens per shard; it is high because a shard's sums are as large as the model.
"""

SHOWN = 10**6
"""The smallest sparsity that removes a weight is told rounded up to a multiple of 1 / SHOWN."""
N_OF_M = {"2:4": NOfM(2, 4), "4:8": NOfM(4, 8)}


def run(
    context: StageContext,
    inputs: CompressionInputs,
    prepared: PreparedCompression,
    upstream: StageOutput,
) -> StageOutput:
    """Return the stage's result: the packed prune masks of every linear module.

    Raises `InvalidInputError` if the sparsity removes no weight.
    """
    spec = inputs.spec
    key = {
        "prepare": upstream.sha256,
        "method": spec.method,
        "statistic": spec.statistic,
        "pattern": spec.pattern,
        "sparsity": spec.target_sparsity,
        "sequential": spec.sequential,
        "seed": spec.seed,
        "shard_tokens": SHARD_TOKENS,
    }
    stage = ShardedStage("compress", compute_key("compress", key), upstream.sha256)

    def work(progress: Progress) -> bytes:
        _require_removal(inputs)
        if build_plan(inputs).is_additive:
            _compress_in_shards(context, stage, inputs, prepared, progress)
        else:
            _compress_here(inputs, prepared, progress)
        return pack_masks(inputs.base.find_linear_modules())

    return context.run_stage("compress", key, work)


def build_work(inputs: CompressionInputs, prepared: PreparedCompression) -> ShardedWork:
    """Return the stage's work in shards, which are the same on every worker."""
    runs = cut_samples(_calibration(prepared), SHARD_TOKENS)
    firsts = list(accumulate((len(run) for run in runs), initial=0))

    def compute(position: int, advance: Advance) -> bytes:
        sums = sum_scores(
            inputs.base,
            build_plan(inputs),
            runs[position],
            first_index=firsts[position],
            advance=advance,
        )
        return serialise_sums(sums)

    cost = (FORWARD + BACKWARD) * fmean(map(len, prepared.calibration))
    return ShardedWork(tuple(len(run) for run in runs), compute, cost=cost)


def build_plan(inputs: CompressionInputs) -> CompressionPlan:
    """Return the job's plan as the core expects it."""
    spec = inputs.spec
    pattern: Pattern = N_OF_M.get(spec.pattern) or RowShare(spec.target_sparsity)
    return CompressionPlan(
        attributor=Attributor(spec.method),
        pattern=pattern,
        statistic=Statistic(spec.statistic),
        calibration=Calibration.SEQUENTIAL if spec.sequential else Calibration.ONE_SHOT,
        seed=spec.seed,
    )


def _require_removal(inputs: CompressionInputs) -> None:
    """Raise `InvalidInputError` if the sparsity rounds to no weight even in the longest rows."""
    pattern = build_plan(inputs).pattern
    longest = max(map(count_features, inputs.base.find_linear_modules().values()))
    if isinstance(pattern, RowShare) and not count_share(longest, pattern.share):
        raise InvalidInputError(
            f"sparsity {pattern.share:g} removes no weight: the longest rows of the model have "
            f"{longest}, and it is a share of each. Give at least {ceil(SHOWN / longest) / SHOWN}."
        )


def _compress_in_shards(
    context: StageContext,
    stage: ShardedStage,
    inputs: CompressionInputs,
    prepared: PreparedCompression,
    progress: Progress,
) -> None:
    work = build_work(inputs, prepared)
    results = context.run_shards(stage, work, Counter(progress, [work.part]))
    relevance = finish(merge_sums([parse_sums(data) for data in results]), in_place=True)
    modules = inputs.base.find_linear_modules()
    prune_by_relevance(modules, build_plan(inputs), relevance)


def _compress_here(
    inputs: CompressionInputs, prepared: PreparedCompression, progress: Progress
) -> None:
    compress(inputs.base, build_plan(inputs), _calibration(prepared), progress=progress)


def _calibration(prepared: PreparedCompression) -> list[TokenSequence]:
    return [TokenSequence(ids) for ids in prepared.calibration]
