"""Rows and columns of a matrix: which are chosen, what they keep, how many a selection needs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from excise.names import Granularity
from workers.domain import LineTally
from workers.pruning.lines import (
    JUDGED_SHARE,
    Lines,
    choose_lines,
    find_cover,
    keep_lines,
)
from workers.pruning.ranking import rank_components
from workers.pruning.score_stream import NaNScoreError, ScoreError


def draw_scores(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    """Heavy-tailed positive and negative scores, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).pow(3)


def chosen(scores: torch.Tensor, most: int) -> Lines:
    return choose_lines(scores, most).lines


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


def test_what_the_lines_hold_of_the_weights_that_chose_them_is_counted() -> None:
    scores = torch.zeros(5, 6, dtype=torch.float64)
    scores[2, :4], scores[4, 5], scores[0, 5] = 2.0, 3.0, 1.0
    first = choose_lines(scores, 1)
    assert lists(first.lines) == ([2], [])
    assert first.tally == LineTally(6, 4, score=12.0, score_within=8.0, free_rank=2)
    assert choose_lines(scores, 2).tally == LineTally(6, 6, 12.0, 12.0, 2)
    both = first.tally + LineTally(10, 1, 5.0, 0.5, free_rank=7)
    assert both == LineTally(16, 5, 17.0, 8.5, 7)


def test_only_the_best_weights_of_a_matrix_choose_its_lines() -> None:
    scores = torch.full((100, 1000), 1.0, dtype=torch.float64)
    scores[7] = 2.0  # 2,000 in all, but a thousand others are better than each of them
    scores[:, 9] = 15.0
    scores[torch.arange(1000) % 90 + 8, torch.arange(1000)] = 3.0
    assert JUDGED_SHARE * scores.numel() < sum(scores.shape)
    assert lists(chosen(scores, 1)) == ([], [9])


def test_fewer_lines_come_back_where_fewer_hold_anything() -> None:
    scores = torch.full((4, 4), -1.0, dtype=torch.float64)
    assert len(chosen(scores, 3)) == 0
    scores[1, 2] = 1.0
    assert lists(chosen(scores, 3)) == ([1], [])
    scores[3, 3] = torch.inf  # has no rank
    assert lists(chosen(scores, 3)) == ([1], [])
    assert len(chosen(torch.zeros(0, 4, dtype=torch.float64), 3)) == 0


def test_a_score_that_is_not_a_number_is_refused() -> None:
    scores = draw_scores((6, 6))
    scores[0, 0] = torch.nan
    with pytest.raises(NaNScoreError):
        choose_lines(scores, 2)
    with pytest.raises(ScoreError, match="3 axes"):
        choose_lines(torch.zeros(2, 3, 4), 2)


def test_scores_on_the_lines_stay_and_all_others_are_nothing() -> None:
    scores = draw_scores((8, 9))
    kept = keep_lines(scores, Lines(np.array([1, 5]), np.array([0])))
    on = torch.zeros(8, 9, dtype=torch.bool)
    on[[1, 5]], on[:, 0] = True, True
    assert torch.equal(kept[on], scores[on])
    assert not kept[~on].any()


@pytest.mark.parametrize("most", [1, 2, 4])
def test_whatever_is_ranked_needs_no_more_lines_than_are_allowed(most: int) -> None:
    shapes = {"a": (12, 20), "b": (30, 10)}
    scores = {name: draw_scores(shape, seed) for seed, (name, shape) in enumerate(shapes.items())}
    limited = {name: keep_lines(own, chosen(own, most)) for name, own in scores.items()}
    ranking = rank_components(limited, Granularity.WEIGHT, 60)
    free = rank_components(scores, Granularity.WEIGHT, 60)
    for name, (_, width) in shapes.items():
        found = (ranking.top(60).indices[name].numpy(), free.top(60).indices[name].numpy())
        kept, anywhere = (len(find_cover(places // width, places % width)) for places in found)
        assert 0 < kept <= most < anywhere


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
