"""What a limit on the rows and columns of pruned weights is used for, and what it may cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from excise.names import Granularity
from workers.correction.results import LineForecast, LineUse, TrialSettings
from workers.correction.search import Ranked, SearchPlan
from workers.domain import GeneralCost, Relevance, Selection
from workers.families import linear_weight
from workers.models.loaded import LoadedModel
from workers.pruning.damage import compute_divergence, predict_damage
from workers.pruning.joint_ranking import gather
from workers.pruning.lines import Lines, Places, find_cover, limit_to_lines
from workers.pruning.ranking import Ranking, rank_components

Shapes = Mapping[str, torch.Size]
"""Module → the shape of its weight as it is stored."""


class LineLimit:
    """Keeps the weights that a search may prune to a few lines of each matrix, once chosen."""

    def __init__(self, base: LoadedModel, plan: SearchPlan) -> None:
        self._base = base
        self._plan = plan
        self._lines: dict[str, Lines] = {}
        self._forecast: LineForecast | None = None

    def limit(
        self,
        scores: Mapping[str, torch.Tensor],
        benefit: Mapping[str, torch.Tensor],
        general: Relevance | GeneralCost,
    ) -> Mapping[str, torch.Tensor]:
        """Return the scores of single weights, 0 off the lines; the first ones choose these.

        So later rounds, and every behaviour alone, share the lines.
        """
        if self._plan.max_lines is None:
            return scores
        limited = limit_to_lines(scores, self._plan.max_lines, self._lines)
        if self._forecast is None:
            most = self._plan.space.amounts[Granularity.WEIGHT][1]
            free, kept = (
                rank_components(values, Granularity.WEIGHT, most) for values in (scores, limited)
            )
            shapes = self._list_shapes()
            self._forecast = forecast_lines(free, kept, shapes, self._lines, benefit, general)
        return limited

    def count(self, ranked: Ranked, settings: TrialSettings) -> Ranked:
        """Return single weights with the ranks of what the trial prunes; others as they are."""
        if settings.granularity is not Granularity.WEIGHT:
            return ranked
        ranks = count_ranks(ranked.ranking.top(settings.amount), self._list_shapes())
        use = LineUse(max_rank=self._plan.max_lines, ranks=ranks, forecast=self._forecast)
        return replace(ranked, lines=use)

    def _list_shapes(self) -> dict[str, torch.Size]:
        modules = self._base.find_components(Granularity.WEIGHT)
        return {name: linear_weight(module).shape for name, module in modules.items()}


def count_ranks(weights: Selection, shapes: Shapes) -> dict[str, int]:
    """Return module → the fewest rows and columns that hold its chosen weights."""
    return {
        name: len(find_cover(*_split(indices, shapes[name])))
        for name, indices in weights.indices.items()
    }


def forecast_lines(
    free: Ranking,
    kept: Ranking,
    shapes: Shapes,
    lines: Mapping[str, Lines],
    benefit: Mapping[str, torch.Tensor],
    general: Relevance | GeneralCost,
) -> LineForecast:
    """Return what keeping to `lines` is predicted to cost: the best weights there and anywhere.

    `free` are the best anywhere, `kept` the best on the lines; as many of each are compared.
    """
    count = min(len(free), len(kept))
    anywhere, there = free.top(count), kept.top(count)
    return LineForecast(
        weights=count,
        within=sum(
            _count_within(indices, shapes[name], lines[name])
            for name, indices in anywhere.indices.items()
        ),
        free_rank=max(count_ranks(anywhere, shapes).values(), default=0),
        benefit=_divide(*(float(gather(own, benefit).sum()) for own in (there, anywhere))),
        damage=_divide(*(_sum_damage(own, general) for own in (there, anywhere)))
        if isinstance(general, GeneralCost)
        else None,
    )


def _sum_damage(weights: Selection, general: GeneralCost) -> float:
    divergence = compute_divergence(gather(weights, general.fisher))
    return float(predict_damage(gather(weights, general.first_order), divergence).sum())


def _count_within(indices: torch.Tensor, shape: torch.Size, lines: Lines) -> int:
    rows, columns = _split(indices, shape)
    return int((np.isin(rows, lines.rows) | np.isin(columns, lines.columns)).sum())


def _split(indices: torch.Tensor, shape: torch.Size) -> tuple[Places, Places]:
    """Return the row and the column of each index."""
    rows, columns = np.divmod(indices.numpy(), shape[-1])
    return rows, columns


def _divide(value: float, whole: float) -> float:
    return value / whole if whole else 1.0
