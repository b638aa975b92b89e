"""Lines of a matrix, its rows and columns: the few that pruned weights may lie on.

A matrix that changes on r lines alone changes by a matrix of rank r at most, which is what a small
adapter holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from workers.domain import LineTally
from workers.pruning.score_stream import NaNScoreError, ScoreError

JUDGED_SHARE = 1e-3
"""Share of a matrix's weights, those with the largest scores, by which its lines are chosen: about
the share of a model's weights that a search's pool holds; never fewer than its sides together."""

Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Lines:
    """Some rows and columns of one matrix, both ascending."""

    rows: Places
    columns: Places

    def __len__(self) -> int:
        return len(self.rows) + len(self.columns)


class LineChoice(NamedTuple):
    """The lines of one matrix, and what they hold."""

    lines: Lines
    tally: LineTally


def choose_lines(scores: torch.Tensor, most: int) -> LineChoice:
    """Return at most `most` lines of a matrix with scores `(row, column)`, the best ones.

    Greedy: each time the line whose weights bring most beside those of the lines before it. What
    a line brings is the summed score of its weights among the matrix's best `JUDGED_SHARE`;
    scores of 0, below and without bound count nothing, as in a ranking. Fewer lines come back
    where fewer hold such weights. Raises `NaNScoreError`, and `ScoreError` for what is no matrix.
    """
    if scores.dim() != 2:
        raise ScoreError(f"scores of {scores.dim()} axes have no rows and columns; give a matrix")
    best, places = _find_best(scores)
    rows, columns = np.divmod(places, scores.shape[1])
    lines = _choose_greedily(best, rows, columns, most)
    within = np.isin(rows, lines.rows) | np.isin(columns, lines.columns)
    tally = LineTally(
        len(best),
        int(within.sum()),
        float(best.sum()),
        float(best[within].sum()),
        len(find_cover(rows, columns)),
    )
    return LineChoice(lines, tally)


def _choose_greedily(
    values: NDArray[np.float64], rows: Places, columns: Places, most: int
) -> Lines:
    chosen: dict[str, list[int]] = {"rows": [], "columns": []}
    for _ in range(most):
        if not len(values):
            break
        by_row, by_column = (np.bincount(axis, weights=values) for axis in (rows, columns))
        row, column = int(by_row.argmax()), int(by_column.argmax())
        if by_row[row] >= by_column[column]:
            chosen["rows"].append(row)
            left = rows != row
        else:
            chosen["columns"].append(column)
            left = columns != column
        values, rows, columns = values[left], rows[left], columns[left]
    return Lines(*(np.array(sorted(found), dtype=np.int64) for found in chosen.values()))


def keep_lines(scores: torch.Tensor, lines: Lines) -> torch.Tensor:
    """Return the scores `(row, column)` with 0 wherever no line lies, which no ranking takes."""
    kept = torch.zeros_like(scores)
    rows, columns = (torch.from_numpy(places).to(scores.device) for places in _sides(lines))
    kept[rows] = scores[rows]
    kept[:, columns] = scores[:, columns]
    return kept


def find_cover(rows: Places, columns: Places) -> Lines:
    """Return the fewest lines on which all places `(rows[k], columns[k])` lie.

    Their number is the rank that a matrix with entries at these places has at most, and has
    unless its values happen to cancel. Found by a maximum matching (Kőnig's theorem).
    """
    if not len(rows):
        return Lines(rows.astype(np.int64), columns.astype(np.int64))
    graph = csr_array((np.ones(len(rows), dtype=np.int8), (rows, columns)))
    row_of = maximum_bipartite_matching(graph, perm_type="row")
    seen_rows, seen_columns = _reach(graph, row_of)
    return Lines(np.flatnonzero(~seen_rows), np.flatnonzero(seen_columns))


def _reach(graph: csr_array, row_of: Places) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the rows and columns that alternating paths from unmatched rows lead to.

    `row_of` is each column's matched row, −1 for none.
    """
    seen_rows = np.ones(graph.shape[0], dtype=bool)
    seen_rows[row_of[row_of >= 0]] = False
    seen_columns = np.zeros(graph.shape[1], dtype=bool)
    waiting = np.flatnonzero(seen_rows).tolist()
    while waiting:
        row = waiting.pop()
        for column in graph.indices[graph.indptr[row] : graph.indptr[row + 1]].tolist():
            if not seen_columns[column]:
                seen_columns[column] = True
                # Never −1: an unmatched column here would make the matching larger.
                matched = int(row_of[column])
                if not seen_rows[matched]:
                    seen_rows[matched] = True
                    waiting.append(matched)
    return seen_rows, seen_columns


def _find_best(scores: torch.Tensor) -> tuple[NDArray[np.float64], Places]:
    """Return the scores of a matrix that choose its lines, and their places in the matrix.

    Of equal ones the earlier are taken.
    """
    flat = scores.detach().flatten()
    if not len(flat):
        return np.empty(0), np.empty(0, dtype=np.int64)
    if bool(flat.max().isnan()):
        raise NaNScoreError("a score is NaN, which has no rank; repair what computed it")
    count = min(len(flat), max(sum(scores.shape), round(JUDGED_SHARE * len(flat))))
    threshold = flat.topk(count).values[-1]
    counted = (flat >= threshold) & (flat > 0) & (flat < torch.inf)
    places = counted.nonzero().flatten()
    best = flat[places].sort(descending=True, stable=True)
    values, order = best.values[:count], best.indices[:count]
    return values.double().cpu().numpy(), places[order].cpu().numpy()


def _sides(lines: Lines) -> tuple[Places, Places]:
    return lines.rows, lines.columns
