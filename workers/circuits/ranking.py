"""From scores to circuits: which components a circuit of a given size keeps."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import torch

from workers.circuits.sites import Site
from workers.domain import Granularity, Scope, Selection


class Order(StrEnum):
    """Which components come first."""

    SIGNED = "signed"
    """The largest scores: what speaks for the answer."""
    ABSOLUTE = "absolute"
    """The largest magnitudes: what the answer leans on, for or against."""


def order_scores(scores: Mapping[str, torch.Tensor], order: Order) -> dict[str, torch.Tensor]:
    """Return the scores so that larger comes first."""
    if order is Order.SIGNED:
        return dict(scores)
    return {name: values.abs() for name, values in scores.items()}


def count_kept(total: int, share: float) -> int:
    """Return ⌊share · total⌋, robust to rounding: 0.29 of 100 is 29."""
    return min(total, int(share * total + 1e-9))


def count_circuit(
    scores: Mapping[str, torch.Tensor], share: float, scope: Scope, sites: Mapping[str, Site]
) -> int:
    """Return how many components `keep_largest` keeps."""
    if scope is Scope.GLOBAL:
        return count_kept(sum(values.numel() for values in scores.values()), share)
    if scope is Scope.LAYER:
        return sum(count_kept(values.numel(), share) for values in scores.values())
    axes = {name: sites[name].row_axis for name in scores}
    return sum(
        values.shape[axes[name]] * count_kept(values.shape[1 - axes[name]], share)
        for name, values in scores.items()
    )


def keep_largest(
    scores: Mapping[str, torch.Tensor], share: float, scope: Scope, sites: Mapping[str, Site]
) -> dict[str, torch.Tensor]:
    """Return module → bool mask, True at the `share` of components with the largest scores.

    `scope` says among which components ⌊share · n⌋ are taken: all, a module's, or the weights
    of one output feature. Equal scores keep the order of modules and components. Raises
    `ValueError` for rows of scores that are no matrices.
    """
    if scope is Scope.ROW:
        return {
            name: _keep_in_rows(values, share, sites[name].row_axis)
            for name, values in scores.items()
        }
    if scope is Scope.LAYER:
        return {name: _keep_first(values, share) for name, values in scores.items()}
    flat = torch.cat([values.flatten() for values in scores.values()])
    kept = _keep_first(flat, share).split([values.numel() for values in scores.values()])
    return {
        name: part.view_as(values)
        for (name, values), part in zip(scores.items(), kept, strict=True)
    }


def _keep_first(values: torch.Tensor, share: float) -> torch.Tensor:
    order = torch.sort(values.flatten(), descending=True, stable=True).indices
    kept = torch.zeros(values.numel(), dtype=torch.bool)
    kept[order[: count_kept(values.numel(), share)]] = True
    return kept.view_as(values)


def _keep_in_rows(values: torch.Tensor, share: float, row_axis: int) -> torch.Tensor:
    if values.ndim != 2:
        raise ValueError("rows are rows of weight matrices; take scope layer for nodes")
    rows = values if row_axis == 0 else values.T
    order = torch.sort(rows, dim=1, descending=True, stable=True).indices
    kept = torch.zeros(rows.shape, dtype=torch.bool)
    kept.scatter_(1, order[:, : count_kept(rows.shape[1], share)], True)
    return kept if row_axis == 0 else kept.T


def select_outside(
    keep_masks: Mapping[str, torch.Tensor], sites: Mapping[str, Site]
) -> dict[Granularity, Selection]:
    """Return, per granularity, everything a circuit does not keep: what its patch removes."""
    removed: dict[Granularity, dict[str, torch.Tensor]] = {}
    for name, keep_mask in keep_masks.items():
        indices = (~keep_mask).flatten().nonzero().flatten()
        of_kind = removed.setdefault(sites[name].granularity, {})
        if len(indices):
            of_kind[name] = indices
    return {granularity: Selection(granularity, found) for granularity, found in removed.items()}
