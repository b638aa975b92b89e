"""Every attributor behind one call: the relevance of components over some samples."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from torch import nn

from workers.attribution.accumulation import ON_DEVICE, Storage
from workers.attribution.baselines import (
    compute_magnitude_sums,
    draw_random_sums,
    sum_written_magnitudes,
)
from workers.attribution.composites import COMPOSITES
from workers.attribution.memory import OnHalved, log_halved
from workers.attribution.relevance import sum_gradient_relevance
from workers.attribution.sums import ALL_STATISTICS, Combination, RelevanceSums, Statistic, finish
from workers.attribution.targets import Target, TokenMass
from workers.domain import Granularity, Relevance, TokenSequence
from workers.families import Family, check_granularity
from workers.models.batches import build_batches
from workers.progress import Advance, ignore

BATCH_TOKENS = 1024
"""Padded tokens a batch; attribution holds the activations of one batch in memory."""


class Attributor(StrEnum):
    """Method by which relevance is computed."""

    ATTNLRP = "attnlrp"
    CP_LRP = "cp_lrp"
    GRADIENT_X_INPUT = "gradient_x_input"
    WANDA = "wanda"
    ACTIVATION = "activation"
    MAGNITUDE = "magnitude"
    RANDOM = "random"

    @property
    def explains(self) -> bool:
        """Whether it explains chosen tokens; the others treat all tokens alike, or read none."""
        return self in COMPOSITES

    @property
    def reads_samples(self) -> bool:
        """Whether its relevance depends on the samples."""
        return self not in (Attributor.MAGNITUDE, Attributor.RANDOM)


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

    Arguments and errors are those of `sum_relevance`. Also raises `ValueError` if the attributor
    needs samples and there are none.
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

    Without `statistics`, neurons and heads get all three and weights only the mean: for weights
    each further statistic is as large as the model and costs a matrix product a batch. `advance`
    is called with the number of samples in every finished batch, `on_halved` when a batch ran
    out of memory. `target` matters only to the gradient attributors. `seed` drives random
    baselines and sampled targets. Draws use the sample's global index, so sharding does not
    change them; `first_index` is the global index of the first sample here.

    Raises `UnsupportedGranularityError`, `NonFiniteRelevanceError`, `SampleTooLargeError`, and
    `ValueError` for samples that make no batch.
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
    """Return the statistics that are computed when a caller names none."""
    if granularity is Granularity.WEIGHT:
        return frozenset({Statistic.MEAN})
    return ALL_STATISTICS
