"""On how many rows and columns of each matrix pruned weights lie."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from excise.names import Granularity
from workers.correction.results import LineForecast, LineUse
from workers.domain import LineTally, Selection
from workers.families import linear_weight
from workers.models.loaded import LoadedModel
from workers.pruning.lines import find_cover

Shapes = Mapping[str, torch.Size]
"""Module → the shape of its weight as it is stored."""


def describe_lines(
    base: LoadedModel, weights: Selection, limit: int | None, tally: LineTally | None
) -> LineUse:
    """Return the ranks of pruned weights, beside the limit and what the limit holds (`tally`)."""
    modules = base.find_components(Granularity.WEIGHT)
    shapes = {name: linear_weight(module).shape for name, module in modules.items()}
    return LineUse(
        max_rank=limit,
        ranks=count_ranks(weights, shapes),
        forecast=None if tally is None else describe_tally(tally),
    )


def count_ranks(weights: Selection, shapes: Shapes) -> dict[str, int]:
    """Return module → the fewest rows and columns that hold its chosen weights."""
    return {
        name: len(find_cover(*np.divmod(indices.numpy(), shapes[name][-1])))
        for name, indices in weights.indices.items()
    }


def describe_tally(tally: LineTally) -> LineForecast:
    """Return what a report says of the lines of all matrices."""
    return LineForecast(
        weights=tally.weights,
        within=tally.within,
        score=tally.score_within / tally.score if tally.score else 1.0,
        free_rank=tally.free_rank,
    )
