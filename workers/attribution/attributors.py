"""All attributors behind one call, which computes the relevance of components over samples."""

from __future__ import annotations

from collections.abc import Sequence

from excise.names import Attributor
from workers.attribution.attribution import (
    DEFAULT_PASS,
    Attribution,
    Pass,
    choose_batch_tokens,
)
from workers.attribution.baselines import (
    compute_magnitude_sums,
    draw_random_sums,
    sum_written_magnitudes,
)
from workers.attribution.composites import COMPOSITES
from workers.attribution.relevance import sum_gradient_relevance
from workers.attribution.sums import Combination, RelevanceSums, finish
from workers.domain import Relevance, TokenSequence
from workers.families import check_granularity
from workers.models.batches import build_batches
from workers.models.loaded import LoadedModel

WRITTEN = {
    Attributor.WANDA: Combination.ROOT_MEAN_SQUARE,
    Attributor.ACTIVATION: Combination.MAGNITUDE,
}


def compute_relevance(
    loaded: LoadedModel,
    asked: Attribution,
    samples: Sequence[TokenSequence],
    run: Pass = DEFAULT_PASS,
) -> Relevance:
    """Return the relevance of every component over the tokens of `samples`.

    Raises what `sum_relevance` does, and `ValueError` if the attributor needs samples and there
    are none.
    """
    return finish(sum_relevance(loaded, asked, samples, run), in_place=True)


def sum_relevance(
    loaded: LoadedModel,
    asked: Attribution,
    samples: Sequence[TokenSequence],
    run: Pass = DEFAULT_PASS,
) -> RelevanceSums:
    """Return sums of relevance over the tokens of one shard's `samples`, to merge with others.

    Raises `UnsupportedGranularityError`, `NonFiniteRelevanceError`, `SampleTooLargeError`, and
    `ValueError` for samples from which no batch can be made.
    """
    check_granularity(loaded.family, asked.granularity)
    if not asked.attributor.reads_samples:
        run.advance(len(samples))
        if asked.attributor is Attributor.MAGNITUDE:
            return compute_magnitude_sums(loaded, asked)
        return draw_random_sums(loaded, asked)
    tokens = choose_batch_tokens(run.batch_tokens, loaded.device)
    batches = build_batches(samples, tokens, loaded.pad_id, run.first_index)
    if asked.attributor in WRITTEN:
        return sum_written_magnitudes(loaded, asked, WRITTEN[asked.attributor], batches, run)
    composite = COMPOSITES[asked.attributor.value]
    return sum_gradient_relevance(loaded, composite, asked, batches, run)
