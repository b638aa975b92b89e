"""Rows and columns of a matrix: which are chosen, what they keep, how many a selection needs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from workers.pruning.lines import Lines, choose_lines, find_cover


def draw_scores(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Heavy-tailed positive and negative scores, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).pow(3)


def chosen(scores: torch.Tensor, most: int) -> Lines:
    """The lines of the weights with positive scores."""
    rows, columns = places_of(scores > 0)
    return choose_lines(scores.numpy()[rows, columns], rows, columns, most)


def lists(lines: Lines) -> tuple[list[int], list[int]]:
    return lines.rows.tolist(), lines.columns.tolist()


def places_of(mask: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = mask.nonzero(as_tuple=True)
    return rows.numpy(), columns.numpy()


def smallest_cover(mask: torch.Tensor) -> int:
    """By trying every set of lines."""
    height, width = mask.shape
    lines = [("row", place) for place in range(height)]
    lines += [("column", place) for place in range(width)]
    for count in range(len(lines) + 1):
        for chosen in combinations(lines, count):
            left = mask.clone()
            for kind, place in chosen:
                left[place if kind == "row" else slice(None), :] &= kind != "row"
                if kind == "column":
                    left[:, place] = False
            if not bool(left.any()):
                return count
    raise AssertionError


def test_the_lines_that_bring_most_are_chosen_beside_those_before() -> None:
    scores = torch.zeros(5, 6, dtype=torch.float64)
    scores[2, :] = 10.0
    scores[:, 4] = 9.0  # 45 alone, 36 beside row 2
    scores[3, :3] = 12.0  # 36, too: the row wins
    assert lists(chosen(scores, 1)) == ([2], [])
    assert lists(chosen(scores, 2)) == ([2, 3], [])
    assert lists(chosen(scores, 3)) == ([2, 3], [4])


def test_fewer_lines_come_back_where_fewer_hold_anything() -> None:
    scores = torch.full((4, 4), -1.0, dtype=torch.float64)
    assert len(chosen(scores, 3)) == 0
    scores[1, 2] = 1.0
    assert lists(chosen(scores, 3)) == ([1], [])
    assert len(chosen(torch.zeros(0, 4, dtype=torch.float64), 3)) == 0


def test_places_on_the_lines_are_held() -> None:
    rows, columns = places_of(torch.ones(8, 9, dtype=torch.bool))
    held = Lines(np.array([1, 5]), np.array([0])).hold(rows, columns)
    on = torch.zeros(8, 9, dtype=torch.bool)
    on[[1, 5]], on[:, 0] = True, True
    assert held.tolist() == on.flatten().tolist()


def test_of_equal_scores_the_earlier_count() -> None:
    scores = torch.ones(10, 3, dtype=torch.float64)
    assert lists(chosen(scores, 1)) == ([], [0])


@pytest.mark.parametrize("seed", range(6))
def test_a_cover_is_the_smallest_and_covers_everything(seed: int) -> None:
    mask = draw_scores((5, 6), seed) > 1
    rows, columns = places_of(mask)
    cover = find_cover(rows, columns)
    assert len(cover) == smallest_cover(mask)
    assert all(np.isin(rows, cover.rows) | np.isin(columns, cover.columns))


def test_a_cover_is_the_rank_of_a_matrix_with_such_entries() -> None:
    mask = draw_scores((40, 60)) > 4
    values = draw_scores((40, 60), seed=1) * mask
    assert len(find_cover(*places_of(mask))) == int(torch.linalg.matrix_rank(values))
    assert len(find_cover(np.empty(0, np.int64), np.empty(0, np.int64))) == 0
