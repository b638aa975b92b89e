"""How a trial's components are taken out of the loaded model, and what they leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

from excise.names import Ablation, Granularity
from workers.correction.results import TrialSettings
from workers.domain import Selection, TokenSequence
from workers.pruning.components import pruned
from workers.pruning.means import compute_mean_inputs
from workers.stages.context import InvalidInputError
from workers.stages.inputs import CorrectionInputs


def ablated(
    inputs: CorrectionInputs,
    selection: Selection,
    settings: TrialSettings,
    text: Sequence[TokenSequence],
) -> AbstractContextManager[None]:
    """Return the context in which the trial's selection is pruned; see `pruned`."""
    replacement = compute_replacement(inputs, settings, text)
    return pruned(inputs.base.model, selection, replacement=replacement)


def compute_replacement(
    inputs: CorrectionInputs, settings: TrialSettings, text: Sequence[TokenSequence]
) -> dict[str, torch.Tensor] | None:
    """Return the mean activations on `text` that pruned components leave behind, if any."""
    if settings.ablation == Ablation.ZERO:
        return None
    modules = inputs.base.find_components(settings.granularity)
    return compute_mean_inputs(inputs.base, modules, text)


def check_ablations(inputs: CorrectionInputs) -> None:
    """Raise `InvalidInputError` where a mean is asked for that the model has no place for."""
    if Ablation.MEAN not in inputs.spec.search.ablations:
        return
    if Granularity.WEIGHT in inputs.granularities:
        raise InvalidInputError(
            'search.ablations has "mean", which single weights do not take; prune neurons or '
            'heads, or leave "mean" out'
        )
    for granularity in inputs.granularities:
        modules = inputs.base.find_components(granularity)
        if any(getattr(module, "bias", None) is None for module in modules.values()):
            raise InvalidInputError(
                'search.ablations has "mean", but the output projections that '
                f'{granularity.value}s feed have no bias in this model to hold it; leave "mean" out'
            )
