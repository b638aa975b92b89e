"""Ranking of components by score over the whole model, ties broken by position."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from workers.domain import Component


def rank_components(scores: Mapping[str, torch.Tensor], limit: int) -> tuple[Component, ...]:
    """Return the `limit` components of largest score (scope global), best first.

    Components with a score ≤ 0 or not finite are never returned, so fewer may come back.
    Equal scores keep the order of the mapping and of the features.
    """
    names = list(scores)
    sizes = torch.tensor([len(scores[name]) for name in names])
    flat = torch.cat([scores[name].flatten() for name in names])
    flat = torch.where(torch.isfinite(flat), flat, torch.zeros_like(flat))
    order = torch.sort(flat, descending=True, stable=True).indices[:limit]
    order = order[flat[order] > 0]
    starts = torch.cat([torch.zeros(1, dtype=sizes.dtype), sizes.cumsum(0)])
    owners = torch.searchsorted(starts, order, right=True) - 1
    return tuple(
        Component(names[owner], int(position - starts[owner]))
        for owner, position in zip(owners.tolist(), order.tolist(), strict=True)
    )
