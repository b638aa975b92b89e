"""Ablating a trial's components in the loaded model, and what replaces them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch

from excise.names import Ablation
from workers.correction.results import TrialSettings
from workers.domain import Selection, TokenSequence
from workers.models.loaded import LoadedModel
from workers.pruning.components import pruned
from workers.pruning.means import compute_mean_inputs


def ablated(
    base: LoadedModel, selection: Selection, settings: TrialSettings, text: Sequence[TokenSequence]
) -> AbstractContextManager[None]:
    """Return a context in which the trial's selection is pruned from `base` (see `pruned`)."""
    replacement = compute_replacement(base, settings, text)
    return pruned(base.model, selection, replacement=replacement)


def compute_replacement(
    base: LoadedModel, settings: TrialSettings, text: Sequence[TokenSequence]
) -> dict[str, torch.Tensor] | None:
    """Return module → mean inputs on `text`, `(feature,)`, which replace pruned components.

    Returns None if the settings ablate by zero.
    """
    if settings.ablation == Ablation.ZERO:
        return None
    modules = base.find_components(settings.granularity)
    return compute_mean_inputs(base, modules, text)
