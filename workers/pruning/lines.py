"""Lines of a matrix (rows and columns), and the few lines on which pruned weights may lie.

If a matrix changes on r lines only, the change has rank r at most, so an adapter of that rank can
hold it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Lines:
    """Indices of some rows and some columns of one matrix, each ascending."""

    rows: Places
    columns: Places

    def __len__(self) -> int:
        return len(self.rows) + len(self.columns)

    def hold(self, rows: Places, columns: Places) -> NDArray[np.bool_]:
        """Return whether each place `(rows[k], columns[k])` lies on one of the lines."""
        return np.isin(rows, self.rows) | np.isin(columns, self.columns)


def choose_lines(values: NDArray[np.float64], rows: Places, columns: Places, most: int) -> Lines:
    """Return at most `most` lines of a matrix: those that hold most of its weights' `values`.

    `values[k]` belongs to the weight at `(rows[k], columns[k])`. The choice is greedy: each step
    takes the line with the largest summed value of weights that no line chosen before covers. Ties
    go to rows before columns, then to the smaller index. Fewer lines are returned if fewer cover
    all weights.
    """
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


def find_cover(rows: Places, columns: Places) -> Lines:
    """Return the smallest set of lines that covers all places `(rows[k], columns[k])`.

    Its size is an upper bound of the rank of any matrix that is non-zero at these places only;
    the rank is lower only if values happen to cancel. Found by maximum bipartite matching
    (Kőnig's theorem).
    """
    if not len(rows):
        return Lines(rows.astype(np.int64), columns.astype(np.int64))
    graph = csr_array((np.ones(len(rows), dtype=np.int8), (rows, columns)))
    row_of = maximum_bipartite_matching(graph, perm_type="row")
    seen_rows, seen_columns = _reach(graph, row_of)
    return Lines(np.flatnonzero(~seen_rows), np.flatnonzero(seen_columns))


def _reach(graph: csr_array, row_of: Places) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return bool masks of the rows and columns on alternating paths from unmatched rows.

    `row_of[c]` is the row matched to column c, or −1.
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
                # Never −1: an unmatched column here would allow a larger matching.
                matched = int(row_of[column])
                if not seen_rows[matched]:
                    seen_rows[matched] = True
                    waiting.append(matched)
    return seen_rows, seen_columns
