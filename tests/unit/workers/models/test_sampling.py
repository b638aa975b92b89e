"""Sampled tokens: they follow the nucleus, and depend on seed, row and step alone."""

from __future__ import annotations

import math

import pytest
import torch

from workers.models.sampling import (
    CANDIDATES,
    compute_row_seed,
    draw_from_nuclei,
    draw_tokens,
)

PROBABILITIES = (0.4, 0.3, 0.15, 0.1, 0.05)
VOCABULARY = len(PROBABILITIES)
CHI_SQUARE_999 = {1: 10.83, 2: 13.82, 3: 16.27, 4: 18.47}
"""Degrees of freedom → what a true distribution exceeds once in a thousand times."""

MASK = (1 << 64) - 1


def seeds_of(rows: int, start: int = 0) -> torch.Tensor:
    return torch.tensor([compute_row_seed(start, (7, 8), row) for row in range(rows)])


def draw(probabilities: torch.Tensor, rows: int, top_p: float, start: int = 0) -> torch.Tensor:
    """Draws of `rows` rows with one distribution."""
    return draw_from_nuclei(probabilities.log().expand(rows, -1), seeds_of(rows, start), top_p)


def compute_chi_square(draws: torch.Tensor, expected: torch.Tensor) -> float:
    counts = torch.bincount(draws, minlength=len(expected)).double()
    kept = expected > 0
    wanted = expected[kept].double() * len(draws)
    assert int(counts[~kept].sum()) == 0
    return float(((counts[kept] - wanted).square() / wanted).sum())


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1.0, 5), (0.94, 4), (0.86, 4), (0.84, 3), (0.71, 3), (0.69, 2), (0.5, 2)]
)
def test_draws_follow_the_nucleus(top_p: float, kept: int) -> None:
    # The vocabulary is shuffled: a token's number says nothing about its probability.
    order = torch.tensor([3, 0, 4, 1, 2])
    probabilities = torch.empty(VOCABULARY)
    probabilities[order] = torch.tensor(PROBABILITIES)
    expected = torch.zeros(VOCABULARY)
    expected[order[:kept]] = torch.tensor(PROBABILITIES[:kept]) / sum(PROBABILITIES[:kept])
    draws = draw(probabilities, 20_000, top_p)
    assert compute_chi_square(draws, expected) < CHI_SQUARE_999[kept - 1]


def test_a_nucleus_of_one_token_is_greedy() -> None:
    assert draw(torch.tensor(PROBABILITIES), 500, 0.4 - 1e-6).unique().tolist() == [0]
    assert draw(torch.tensor(PROBABILITIES), 500, 1e-9).unique().tolist() == [0]


def test_a_nucleus_beyond_the_candidates_is_drawn_whole() -> None:
    # 3,000 tokens, all but equally probable: of the nucleus of 0.9 two thirds lie beyond.
    most, vocabulary = CANDIDATES[-1], 3000
    weights = torch.linspace(1.001, 0.999, vocabulary, dtype=torch.float64)
    probabilities = (weights / weights.sum()).float()
    draws = draw(probabilities, 2000, 0.9)
    kept = int((probabilities.double().cumsum(0) - probabilities < 0.9).sum())
    assert most < kept < vocabulary
    assert int(draws.max()) < kept
    share = float((draws >= most).double().mean())
    expected = 1 - most / kept
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 2000))


def test_rows_of_large_and_small_nuclei_are_drawn_side_by_side() -> None:
    flat = torch.full((3000,), 1 / 3000)
    middle = torch.full((3000,), 1e-6)
    middle[:600] = (1 - 2400e-6) / 600
    peaked = torch.full((3000,), 1e-6)
    peaked[1234] = 1 - 2999e-6
    rows = torch.stack([flat, peaked, middle, peaked]).log()
    seeds = seeds_of(4)
    together = draw_from_nuclei(rows, seeds, 0.9)
    alone = [draw_from_nuclei(rows[row : row + 1], seeds[row : row + 1], 0.9) for row in range(4)]
    assert together.tolist() == torch.cat(alone).tolist()
    assert together[1] == together[3] == 1234


def test_the_rows_around_one_change_nothing() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(40, 200, generator=generator).log_softmax(-1)
    seeds = seeds_of(40)
    together = draw_from_nuclei(rows, seeds, 0.9)
    order = torch.randperm(40, generator=generator)
    assert torch.equal(draw_from_nuclei(rows[order], seeds[order], 0.9), together[order])
    assert torch.equal(draw_from_nuclei(rows[5:9], seeds[5:9], 0.9), together[5:9])


def test_almost_equal_predictions_almost_always_draw_the_same() -> None:
    generator = torch.Generator().manual_seed(2)
    rows = torch.randn(2000, 50, generator=generator)
    moved = rows + 0.01 * torch.randn(2000, 50, generator=generator)
    seeds = seeds_of(2000)
    same = draw_from_nuclei(rows.log_softmax(-1), seeds, 0.9) == draw_from_nuclei(
        moved.log_softmax(-1), seeds, 0.9
    )
    assert 0.98 < float(same.double().mean()) < 1
    others = draw_from_nuclei(rows.log_softmax(-1), seeds_of(2000, 1), 0.9)
    assert (
        float((others == draw_from_nuclei(rows.log_softmax(-1), seeds, 0.9)).double().mean()) < 0.3
    )


def mix(state: int) -> int:
    """splitmix64's output function, on Python's integers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def draw_slowly(probabilities: list[float], seed: int, step: int, top_p: float) -> int:
    """One draw, token by token, from the definition."""
    weyl = 0x9E3779B97F4A7C15
    row = (seed + weyl * step) & MASK
    best, drawn, before = -math.inf, -1, 0.0
    for token in sorted(range(len(probabilities)), key=lambda token: -probabilities[token]):
        if before >= top_p:
            break
        before += probabilities[token]
        bits = mix((row + mix((token + weyl) & MASK)) & MASK)
        uniform = ((bits >> 11) + 0.5) / 2**53
        noisy = math.log(probabilities[token]) - math.log(-math.log(uniform))
        if noisy > best:
            best, drawn = noisy, token
    return drawn


@pytest.mark.parametrize("step", [0, 1, 2, 29])
def test_draws_are_those_of_the_definition(step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    scores = 2 * torch.randn(60, 40, generator=generator)
    seeds = [compute_row_seed(3, (row, 1), row % 5) for row in range(60)]
    drawn = draw_tokens(scores, torch.tensor(seeds), step, temperature=0.7, top_p=0.83)
    probabilities = torch.softmax(scores.double() / 0.7, dim=-1).tolist()
    expected = [
        draw_slowly(row, seed, step, 0.83) for row, seed in zip(probabilities, seeds, strict=True)
    ]
    assert drawn.tolist() == expected


def test_the_temperature_flattens() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0])
    for temperature in (0.5, 1.0, 2.0):
        drawn = draw_tokens(logits.expand(20_000, -1), seeds_of(20_000), 0, temperature, 1.0)
        expected = torch.softmax(logits / temperature, -1)
        assert compute_chi_square(drawn, expected) < CHI_SQUARE_999[2]


def test_half_precision_logits_are_drawn_from_in_full() -> None:
    logits = torch.randn(300, 200, generator=torch.Generator().manual_seed(7)).bfloat16()
    drawn = draw_tokens(logits, seeds_of(300), 0, 1.0, 0.5)
    assert torch.equal(drawn, draw_tokens(logits.float(), seeds_of(300), 0, 1.0, 0.5))


def test_the_steps_of_a_row_are_drawn_apart() -> None:
    rows, flat = 4000, torch.zeros(4000, 10)
    first, second = (draw_tokens(flat, seeds_of(rows), step, 1.0, 1.0) for step in (0, 1))
    # Independent steps agree once in ten times.
    assert float((first == second).double().mean()) == pytest.approx(0.1, abs=0.02)
    shift = (second - first) % 10
    assert compute_chi_square(shift, torch.full((10,), 0.1)) < 27.88  # 9 degrees of freedom


def test_seeds_tell_seed_prompt_and_sample_apart() -> None:
    prompts = [(1, 23), (12, 3), (123,), (1, 2, 3), (3, 2, 1), ()]
    found = {
        compute_row_seed(seed, prompt, sample)
        for seed in (-1, 0, 1, 11)
        for prompt in prompts
        for sample in (0, 1, 11)
    }
    assert len(found) == 4 * len(prompts) * 3
    assert all(-(2**63) <= seed < 2**63 for seed in found)
    assert any(seed < 0 for seed in found)


def test_the_seed_of_a_row_stays_what_it_was() -> None:
    # Results of earlier versions are reproduced by it.
    assert compute_row_seed(0, (1, 2), 3) == compute_row_seed(0, [1, 2], 3)
    assert compute_row_seed(0, (1, 2), 3) == 6572321028283401099
