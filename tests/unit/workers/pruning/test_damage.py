"""Predicted damage against numbers worked out by hand."""

from __future__ import annotations

import torch

from workers.pruning.damage import compute_divergence, predict_damage


def test_the_divergence_is_half_of_the_fisher_information_in_double_precision() -> None:
    fisher = torch.tensor([[1.0, 4.0], [0.0, 1e-45]])
    divergence = compute_divergence(fisher)
    assert divergence.dtype is torch.float64
    assert divergence[0].tolist() == [0.5, 2.0]
    assert divergence[1, 1] > 0  # float32 has no half of its smallest number
    assert fisher.tolist()[0] == [1.0, 4.0]
    double = torch.ones(2, dtype=torch.float64)
    compute_divergence(double)
    assert double.tolist() == [1.0, 1.0]


def test_both_orders_add_up_and_no_removal_costs_less_than_part_of_its_divergence() -> None:
    first_order, divergence = torch.tensor([0.5, -9.0, 0.0]), torch.tensor([0.5, 2.0, 0.0]).double()
    # The second one helps the text, and costs 0.3 of its 2.
    expected = torch.tensor([1.0, 0.6, 0.0], dtype=torch.float64)
    torch.testing.assert_close(predict_damage(first_order, divergence), expected)
    assert first_order.tolist() == [0.5, -9.0, 0.0]
    assert divergence.tolist() == [0.5, 2.0, 0.0]


def test_what_is_done_together_adds_up_under_the_same_bound() -> None:
    divergence = torch.tensor([1.0, 1.0], dtype=torch.float64)
    coupled = torch.tensor([3.0, -5.0], dtype=torch.float64)
    found = predict_damage(torch.zeros(2).double(), divergence, coupled)
    torch.testing.assert_close(found, torch.tensor([4.0, 0.3], dtype=torch.float64))
