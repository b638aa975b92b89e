"""Draws that depend on seed, sample and token alone: uniform, independent, the same anywhere."""

from __future__ import annotations

import pytest
import torch

from workers.attribution.draws import draw_uniforms

COUNT = 40_000


def draw_grid(seed: int = 0, samples: int = 200, tokens: int = 200) -> torch.Tensor:
    rows = torch.arange(samples).repeat_interleave(tokens)
    columns = torch.arange(tokens).repeat(samples)
    return draw_uniforms(seed, rows, columns).view(samples, tokens)


def test_a_draw_is_the_same_in_whatever_company() -> None:
    whole = draw_grid()
    alone = draw_uniforms(0, torch.tensor([17]), torch.tensor([5]))
    assert torch.equal(alone, whole[17, 5][None])
    order = torch.tensor([3, 199, 0])
    assert torch.equal(draw_uniforms(0, order, order), whole[order, order])


def test_draws_are_uniform_below_one() -> None:
    values = draw_grid().flatten()
    assert values.min() >= 0
    assert values.max() < 1
    counts = torch.histc(values, bins=20, min=0, max=1)
    expected = COUNT / 20
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 45  # 19 degrees of freedom: 0.0007 of all seeds are above


@pytest.mark.parametrize("shifted", ["seed", "sample", "token"])
def test_neighbours_are_independent(shifted: str) -> None:
    one = draw_grid()
    other = {
        "seed": draw_grid(seed=1),
        "sample": draw_grid(samples=201)[1:],
        "token": draw_grid(tokens=201)[:, 1:],
    }[shifted]
    correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
    assert abs(float(correlation)) < 4 / COUNT**0.5


def test_sample_and_token_do_not_stand_for_one_another() -> None:
    grid = draw_grid()
    assert not torch.isclose(grid, grid.T).fill_diagonal_(False).float().mean() > 1e-3
    assert len(grid.flatten().unique()) > 0.99 * COUNT


def test_a_large_seed_is_taken() -> None:
    assert not torch.equal(draw_grid(2**63 + 5), draw_grid(6))
    assert torch.equal(draw_grid(2**63 + 5), draw_grid(5))
