"""On how many rows and columns of each matrix pruned weights lie, and what keeps them there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from excise.names import Granularity
from workers.correction.results import LineForecast, LineUse, TrialSettings
from workers.correction.search import Ranked, SearchPlan
from workers.domain import LineTally, Selection
from workers.families import linear_weight
from workers.models.loaded import LoadedModel
from workers.pruning.lines import LineChoice, find_cover, limit_to_lines

Shapes = Mapping[str, torch.Size]
"""Module → the shape of its weight as it is stored."""


class LineLimit:
    """Keeps the weights that a search may prune to a few lines of each matrix, once chosen."""

    def __init__(self, base: LoadedModel, plan: SearchPlan) -> None:
        self._base = base
        self._most = plan.max_lines
        self._chosen: dict[str, LineChoice] = {}

    def limit(self, scores: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return the scores of single weights, 0 off the lines; the first ones choose these.

        So later rounds, and every behaviour alone, share the lines.
        """
        return scores if self._most is None else limit_to_lines(scores, self._most, self._chosen)

    def count(self, ranked: Ranked, settings: TrialSettings) -> Ranked:
        """Return single weights with the ranks of what the trial prunes; others as they are."""
        if settings.granularity is not Granularity.WEIGHT:
            return ranked
        ranks = count_ranks(ranked.ranking.top(settings.amount), self._list_shapes())
        use = LineUse(max_rank=self._most, ranks=ranks, forecast=self._forecast())
        return replace(ranked, lines=use)

    def _list_shapes(self) -> dict[str, torch.Size]:
        modules = self._base.find_components(Granularity.WEIGHT)
        return {name: linear_weight(module).shape for name, module in modules.items()}

    def _forecast(self) -> LineForecast | None:
        if self._most is None:
            return None
        return describe_tally(sum((own.tally for own in self._chosen.values()), LineTally()))


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
