"""Every attributor behind one call: its name, the components and the samples in, relevance out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from excise.names import Attributor, Granularity, Statistic
from workers.attribution.accumulation import ON_DEVICE, Storage
from workers.attribution.baselines import (
    compute_magnitude_sums,
    draw_random_sums,
    sum_written_magnitudes,
)
from workers.attribution.composites import COMPOSITES
from workers.attribution.memory import OnHalved, log_halved
from workers.attribution.relevance import sum_gradient_relevance
from workers.attribution.sums import ALL_STATISTICS, Combination, RelevanceSums, finish
from workers.attribution.targets import Target, TokenMass
from workers.domain import Relevance, TokenSequence
from workers.families import Family, check_granularity
from workers.models.batches import build_batches
from workers.progress import Advance, ignore

BATCH_TOKENS = 1024
"""Padded tokens a batch; activations of one batch are what attribution holds in memory."""


WRITTEN = {
    Attributor.WANDA: Combination.ROOT_MEAN_SQUARE,
    Attributor.ACTIVATION: Combination.MAGNITUDE,
}


def compute_relevance(
    model: nn.Module,
    family: Family,
    attributor: Attributor,
    granularity: Granularity,
    samples: Sequence[TokenSequence],
    target: Target | TokenMass,
    pad_id: int,
    *,
    seed: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    statistics: frozenset[Statistic] | None = None,
    storage: Storage = ON_DEVICE,
    advance: Advance = ignore,
    on_halved: OnHalved = log_halved,
) -> Relevance:
    """Return the relevance of every component over the tokens of `samples`.

    The arguments and errors are those of `sum_relevance`; raises `ValueError` besides, where
    the attributor needs samples and there are none.
    """
    sums = sum_relevance(
        model,
        family,
        attributor,
        granularity,
        samples,
        target,
        pad_id,
        seed=seed,
        batch_tokens=batch_tokens,
        statistics=statistics,
        storage=storage,
        advance=advance,
        on_halved=on_halved,
    )
    return finish(sums, in_place=True)


def sum_relevance(
    model: nn.Module,
    family: Family,
    attributor: Attributor,
    granularity: Granularity,
    samples: Sequence[TokenSequence],
    target: Target | TokenMass,
    pad_id: int,
    *,
    seed: int = 0,
    first_index: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    statistics: frozenset[Statistic] | None = None,
    storage: Storage = ON_DEVICE,
    advance: Advance = ignore,
    on_halved: OnHalved = log_halved,
) -> RelevanceSums:
    """Return sums of relevance over the tokens of `samples`, to be merged with other shards'.

    Without `statistics` neurons and heads get all three, weights only the mean: each further
    one is as large as the model and costs a matrix product a batch. `advance` is called with
    the number of samples of every finished batch, `on_halved` when one ran out of memory.
    `target` matters to the gradient attributors only, `seed` to what is drawn: random relevance,
    and the tokens of a sampled target: for each sample from its index among those of all shards,
    of which the first one here has `first_index`.

    Raises `UnsupportedGranularityError`, `NonFiniteRelevanceError`, `SampleTooLargeError` and,
    for samples that make no batch, `ValueError`.
    """
    check_granularity(family, granularity)
    kept = statistics or default_statistics(granularity)
    if attributor is Attributor.MAGNITUDE:
        advance(len(samples))
        return compute_magnitude_sums(model, family, granularity, kept)
    if attributor is Attributor.RANDOM:
        advance(len(samples))
        return draw_random_sums(model, family, granularity, seed, kept)
    batches = build_batches(samples, batch_tokens, pad_id, first_index)
    if attributor in WRITTEN:
        combination = WRITTEN[attributor]
        return sum_written_magnitudes(
            model, family, granularity, batches, combination, kept, storage, advance, on_halved
        )
    composite = COMPOSITES[attributor.value]
    return sum_gradient_relevance(
        model,
        family,
        composite,
        granularity,
        batches,
        target,
        kept,
        storage,
        advance,
        on_halved,
        seed,
    )


def default_statistics(granularity: Granularity) -> frozenset[Statistic]:
    """Return what is computed when nothing is asked for."""
    if granularity is Granularity.WEIGHT:
        return frozenset({Statistic.MEAN})
    return ALL_STATISTICS
