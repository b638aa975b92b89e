"""Whether a model has a place for what a job's ablations leave behind."""

from __future__ import annotations

from workers.domain import Granularity
from workers.families import find_components
from workers.running.context import InvalidInputError
from workers.running.loading import CorrectionInputs


def check_ablations(inputs: CorrectionInputs) -> None:
    """Raise `InvalidInputError` where a mean is asked for that the model has no place for."""
    if "mean" not in inputs.spec.search.ablations:
        return
    if Granularity.WEIGHT in inputs.granularities:
        raise InvalidInputError(
            'search.ablations has "mean", which single weights do not take; prune neurons or '
            'heads, or leave "mean" out'
        )
    for granularity in inputs.granularities:
        modules = find_components(inputs.checkpoint.model, inputs.family, granularity)
        if any(getattr(module, "bias", None) is None for module in modules.values()):
            raise InvalidInputError(
                'search.ablations has "mean", but the output projections that '
                f'{granularity.value}s feed have no bias in this model to hold it; leave "mean" out'
            )
