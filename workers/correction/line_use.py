"""Rows and columns of matrices on which pruned weights may lie, and their number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from workers.correction.results import LineForecast, LineUse
from workers.domain import Selection
from workers.pruning.lines import Places, choose_lines, find_cover

Shapes = Mapping[str, torch.Size]
"""Module → the shape of its weight as it is stored; of experts, which have a matrix each, with an
axis for these first."""


def allow_best_lines(
    candidates: Selection, worth: torch.Tensor, shapes: Shapes, most: int
) -> torch.Tensor:
    """Return which candidates lie on the `most` best lines of their matrix, `(candidate,)` bool.

    The best lines are those with most of the candidates' `worth`, `(candidate,)`. A candidate
    with a worth of 0 does not affect the choice, but may lie on a chosen line.
    """
    allowed = torch.zeros(len(worth), dtype=torch.bool)
    start = 0
    for name, indices in candidates.indices.items():
        for own, rows, columns in _split_matrices(indices.numpy(), shapes[name]):
            part = torch.from_numpy(start + own)
            values = worth[part].double().numpy()
            counts = values > 0
            lines = choose_lines(values[counts], rows[counts], columns[counts], most)
            allowed[part] = torch.from_numpy(lines.hold(rows, columns))
        start += len(indices)
    return allowed


def count_ranks(weights: Selection, shapes: Shapes) -> dict[str, int]:
    """Return module → the fewest rows and columns that hold its chosen weights.

    Of experts, those of the one that needs most.
    """
    return {
        name: max(
            (
                len(find_cover(rows, columns))
                for _, rows, columns in _split_matrices(indices.numpy(), shapes[name])
            ),
            default=0,
        )
        for name, indices in weights.indices.items()
    }


def _split_matrices(indices: Places, shape: torch.Size) -> Iterator[tuple[Places, Places, Places]]:
    """Yield for each matrix of a weight which of `indices` lie in it, their rows and columns."""
    rows, columns = np.divmod(indices, shape[-1])
    matrices, rows = np.divmod(rows, shape[-2])
    for number in np.unique(matrices):
        own = np.flatnonzero(matrices == number)
        yield own, rows[own], columns[own]


def describe_lines(chosen: Selection, shapes: Shapes) -> LineUse:
    """Return the ranks of pruned weights that no limit applied to."""
    return LineUse(max_rank=None, ranks=count_ranks(chosen, shapes))


def describe_limit(
    chosen: Selection,
    free: Selection,
    candidates: Selection,
    benefit: torch.Tensor,
    shapes: Shapes,
    limit: int,
) -> LineUse:
    """Return the ranks of pruned weights, compared with `free`, the selection without the limit.

    `benefit` has one value per candidate, `(candidate,)`; both selections are candidates.
    """
    kept, whole = (candidates.mark(own) for own in (chosen, free))
    total = float(benefit[whole].sum())
    return LineUse(
        max_rank=limit,
        ranks=count_ranks(chosen, shapes),
        forecast=LineForecast(
            weights=len(free),
            kept=int((kept & whole).sum()),
            benefit=float(benefit[kept].sum()) / total if total else 1.0,
            free_rank=max(count_ranks(free, shapes).values(), default=0),
        ),
    )
