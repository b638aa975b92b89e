"""From scores to circuits: which components a circuit of a given size keeps."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from excise.names import CircuitOrder, Granularity, Scope
from workers.circuits.projections import Projection
from workers.domain import Selection
from workers.pruning.selection import count_share, stream_selection

_ROUNDING = 1e-9
"""Added before rounding down: far above the rounding error of share · n, far below 1."""


def order_scores(
    scores: Mapping[str, torch.Tensor], order: CircuitOrder
) -> dict[str, torch.Tensor]:
    """Return the scores, or their absolute values, so that larger ones are kept first."""
    if order is CircuitOrder.SIGNED:
        return dict(scores)
    return {name: values.abs() for name, values in scores.items()}


def count_circuit(
    scores: Mapping[str, torch.Tensor],
    share: float,
    scope: Scope,
    projections: Mapping[str, Projection],
) -> int:
    """Return how many components `keep_largest` keeps.

    In the global scope it is ⌊share · n⌋ as in MIB's code, protected from rounding errors (0.29 of
    100 is 29); within rows and layers it is the nearest integer.
    """
    if scope is Scope.GLOBAL:
        total = sum(values.numel() for values in scores.values())
        return min(total, int(share * total + _ROUNDING))
    if scope is Scope.LAYER:
        return sum(count_share(values.numel(), share) for values in scores.values())
    axes = {name: projections[name].row_axis for name in scores}
    return sum(
        values.shape[axes[name]] * count_share(values.shape[1 - axes[name]], share)
        for name, values in scores.items()
    )


def keep_largest(
    scores: Mapping[str, torch.Tensor],
    share: float,
    scope: Scope,
    projections: Mapping[str, Projection],
) -> dict[str, torch.Tensor]:
    """Return module → bool mask, True at the `share` of components with the largest scores.

    `scope` says within what the share is taken: the whole model, each module, or the weights of
    each output feature. Equal scores keep the order of modules and components. Raises
    `ScoreError` for a NaN, and for scope `ROW` if scores are not matrices.
    """
    if scope is Scope.GLOBAL:
        total = sum(values.numel() for values in scores.values())
        share = count_circuit(scores, share, scope, projections) / total
    axes = {name: projection.row_axis for name, projection in projections.items()}
    kept: dict[str, torch.Tensor] = {}
    for name, chosen in stream_selection(scores, scope, share, row_axis=axes):
        keep_mask = torch.zeros(scores[name].numel(), dtype=torch.bool)
        keep_mask[chosen] = True
        kept[name] = keep_mask.view_as(scores[name])
    return kept


def select_outside(
    keep_masks: Mapping[str, torch.Tensor], projections: Mapping[str, Projection]
) -> dict[Granularity, Selection]:
    """Return granularity → all components outside the circuit, which its patch removes."""
    removed: dict[Granularity, dict[str, torch.Tensor]] = {}
    for name, keep_mask in keep_masks.items():
        indices = (~keep_mask).flatten().nonzero().flatten()
        of_kind = removed.setdefault(projections[name].granularity, {})
        if len(indices):
            of_kind[name] = indices
    return {granularity: Selection(granularity, found) for granularity, found in removed.items()}
