"""Metrics by hand, and against slow formulas."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scorer_metrics import compute_kappa, compute_roc_auc


def test_kappa_by_hand() -> None:
    # 20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: p_o = 0.7, p_e = 0.5.
    first = [True] * 25 + [False] * 25
    second = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert compute_kappa(first, second) == pytest.approx(0.4)
    assert compute_kappa(first, first) == 1
    assert compute_kappa(first, [not flag for flag in first]) == -1


def test_kappa_of_constant_verdicts() -> None:
    assert compute_kappa([True, True], [True, True]) is None
    assert compute_kappa([True, True], [False, False]) == 0


@pytest.mark.parametrize(("first", "second"), [([], []), ([True], [True, False])])
def test_kappa_needs_pairs(first: list[bool], second: list[bool]) -> None:
    with pytest.raises(ValueError, match="equally many verdicts"):
        compute_kappa(first, second)


@given(
    st.lists(st.integers(0, 5), min_size=2, max_size=12),
    st.lists(st.integers(0, 5), min_size=2, max_size=12),
)
def test_area_is_the_share_of_pairs_in_order(positives: list[int], negatives: list[int]) -> None:
    pairs = list(product(positives, negatives))
    area = sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs)
    labels = [True] * len(positives) + [False] * len(negatives)
    result = compute_roc_auc(labels, [*positives, *negatives])
    assert result.value == pytest.approx(area)
    assert 0 <= result.low <= result.value + 1e-12
    assert result.value - 1e-12 <= result.high <= 1


def test_interval_covers_the_true_area() -> None:
    generator = np.random.default_rng(0)
    labels = [True] * 60 + [False] * 90
    true_area = 0.7602499389  # Φ(1/√2): standard normals one apart
    covered = 0
    for _ in range(400):
        scores = np.concatenate([generator.normal(1, 1, 60), generator.normal(0, 1, 90)])
        result = compute_roc_auc(labels, list(scores))
        covered += result.low <= true_area <= result.high
    assert 0.92 <= covered / 400 <= 0.98


@pytest.mark.parametrize(
    ("labels", "scores"),
    [([True, False], [1, 0]), ([True] * 4, [1, 2, 3, 4]), ([True, True, False, False], [1, 2, 3])],
)
def test_area_needs_both_kinds(labels: list[bool], scores: list[float]) -> None:
    with pytest.raises(ValueError, match=r"at least two|zip"):
        compute_roc_auc(labels, scores)
