"""Check that the model can hold what a job's ablations leave in place of pruned components."""

from __future__ import annotations

from excise.names import Ablation, Granularity
from workers.stages.context import InvalidInputError
from workers.stages.inputs import CorrectionInputs


def check_ablations(inputs: CorrectionInputs) -> None:
    """Raise `InvalidInputError` if the job asks for means that the model cannot hold."""
    if Ablation.MEAN not in inputs.spec.search.ablations:
        return
    if Granularity.WEIGHT in inputs.granularities:
        raise InvalidInputError(
            'search.ablations has "mean", which single weights do not support; prune neurons or '
            'heads, or leave "mean" out'
        )
    for granularity in inputs.granularities:
        modules = inputs.base.find_components(granularity)
        if any(getattr(module, "bias", None) is None for module in modules.values()):
            raise InvalidInputError(
                'search.ablations has "mean", but the output projections that '
                f'{granularity.value}s feed have no bias in this model to hold it; leave "mean" out'
            )
