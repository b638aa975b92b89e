"""Targets: which positions are explained, and directions that stand for logits."""

from __future__ import annotations

import pytest
import torch

from workers.attribution.draws import draw_uniforms
from workers.attribution.targets import (
    Target,
    TokenMass,
    compute_target_directions,
    find_target_positions,
)
from workers.domain import TokenSequence
from workers.models.batches import NO_CONTRAST, build_batches


@pytest.fixture
def hidden() -> torch.Tensor:
    return torch.randn(7, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def head() -> torch.Tensor:
    return torch.randn(11, 5, generator=torch.Generator().manual_seed(2))


NEXT_IDS = torch.tensor([0, 1, 2, 3, 4, 5, 10])


def positions_of(*samples: TokenSequence) -> dict[int, list[int]]:
    (batch,) = build_batches(samples, 1000, 0)
    rows = find_target_positions(batch)
    assert rows.shape == batch.token_ids.shape
    assert rows.dtype == torch.bool
    return {
        index: rows[row].nonzero().flatten().tolist()
        for row, index in enumerate(batch.sample_indices)
    }


def test_without_a_response_every_followed_token_is_explained() -> None:
    assert positions_of(TokenSequence((5, 6, 7, 8))) == {0: [0, 1, 2]}


def test_with_a_response_the_positions_that_predict_it_are_explained() -> None:
    # The last prompt token predicts the first response token; the last token predicts nothing.
    assert positions_of(TokenSequence((5, 6, 7), (8, 9))) == {0: [2, 3]}


def test_pads_are_never_explained_nor_predicted() -> None:
    found = positions_of(
        TokenSequence((1, 2, 3, 4), (5, 6)), TokenSequence((1, 2), (3,)), TokenSequence((1, 2, 3))
    )
    assert found == {0: [3, 4], 1: [1], 2: [0, 1]}


def test_a_single_token_predicts_nothing() -> None:
    assert positions_of(TokenSequence((1,)), TokenSequence((1, 2, 3))) == {0: [], 1: [0, 1]}


def test_a_response_without_a_prompt_is_explained_from_its_second_token() -> None:
    assert positions_of(TokenSequence((), (1, 2, 3))) == {0: [0, 1]}


def test_the_top_logit_direction_gives_the_largest_logit(hidden, head) -> None:
    directions = compute_target_directions(hidden, NEXT_IDS, head, Target.TOP_LOGIT)
    expected = (hidden @ head.T).max(dim=-1).values
    torch.testing.assert_close((hidden * directions).sum(-1), expected)


def test_the_margin_is_over_the_best_other_token(hidden, head) -> None:
    logits = hidden @ head.T
    winners = logits.argmax(-1)
    for next_ids in (NEXT_IDS, winners):
        directions = compute_target_directions(
            hidden, next_ids, head, Target.EMITTED_MINUS_RUNNER_UP
        )
        for row, emitted in enumerate(next_ids.tolist()):
            others = [value for token, value in enumerate(logits[row].tolist()) if token != emitted]
            margin = float(hidden[row] @ directions[row])
            assert margin == pytest.approx(float(logits[row, emitted]) - max(others), abs=1e-5)
    # The emitted token is the winner: a margin over itself would be zero.
    assert (hidden * directions).sum(-1).min() > 0


def test_a_named_contrast_takes_the_place_of_the_runner_up(hidden, head) -> None:
    target = Target.EMITTED_MINUS_RUNNER_UP
    usual = compute_target_directions(hidden, NEXT_IDS, head, target)
    contrast_ids = torch.full_like(NEXT_IDS, NO_CONTRAST)
    contrast_ids[1] = 4
    named = compute_target_directions(hidden, NEXT_IDS, head, target, contrast_ids)
    torch.testing.assert_close(named[1], head[NEXT_IDS[1]] - head[4])
    others = torch.arange(len(hidden)) != 1
    assert torch.equal(named[others], usual[others])


def test_the_log_probability_direction_is_its_gradient(hidden, head) -> None:
    leaf = hidden.clone().requires_grad_()
    log_probabilities = torch.log_softmax(leaf @ head.T, dim=-1)
    log_probabilities.gather(1, NEXT_IDS[:, None]).sum().backward()
    directions = compute_target_directions(hidden, NEXT_IDS, head, Target.EMITTED_LOG_PROBABILITY)
    torch.testing.assert_close(directions, leaf.grad)


@pytest.mark.parametrize("is_mass", [False, True])
def test_what_is_almost_certain_keeps_its_direction_in_bfloat16(head, is_mass: bool) -> None:
    head = head.bfloat16()
    token = int(head.norm(dim=1).argmax())
    target = TokenMass((token,), (1.0,)) if is_mass else Target.EMITTED_LOG_PROBABILITY
    hidden, next_ids = 0.8 * head[token][None], torch.tensor([token])
    found = compute_target_directions(hidden, next_ids, head, target).double()
    # The logits are rounded to bfloat16; what follows from them need not be.
    chances = torch.softmax((hidden @ head.T).double(), -1)
    assert chances[0, token] > 0.99
    expected = head[next_ids].double() - chances @ head.double()
    if is_mass:
        expected *= chances[:, next_ids]
    error = torch.linalg.vector_norm(found - expected) / torch.linalg.vector_norm(expected)
    assert error < 0.02


@pytest.mark.parametrize("target", list(Target))
def test_directions_carry_no_graph_and_change_nothing(target, hidden, head) -> None:
    head.requires_grad_()
    before = hidden.clone(), NEXT_IDS.clone(), head.detach().clone()
    uniforms = torch.full((len(hidden),), 0.5)
    contrast_ids = NEXT_IDS.flip(0)
    directions = compute_target_directions(hidden, NEXT_IDS, head, target, contrast_ids, uniforms)
    assert not directions.requires_grad
    assert directions.shape == hidden.shape
    for value, saved in zip((hidden, NEXT_IDS, head), before, strict=True):
        assert torch.equal(value, saved)


def find_sampled(hidden: torch.Tensor, head: torch.Tensor, uniforms: torch.Tensor) -> list[int]:
    """The token whose log-probability's gradient each sampled direction is."""
    target = Target.SAMPLED_LOG_PROBABILITY
    next_ids = torch.zeros(len(hidden), dtype=torch.long)
    found = compute_target_directions(hidden, next_ids, head, target, None, uniforms)
    expected = head[None] - (torch.softmax(hidden @ head.T, -1) @ head)[:, None]
    distances, tokens = (found[:, None] - expected).abs().amax(-1).min(dim=1)
    assert distances.max() < 1e-5
    return tokens.tolist()


def test_a_sampled_token_is_the_one_in_whose_share_the_number_lies(hidden, head) -> None:
    ends = torch.softmax(hidden @ head.T, -1).cumsum(-1)
    uniforms = (ends[:, 3] + ends[:, 4]) / 2
    assert find_sampled(hidden, head, uniforms) == [4] * len(hidden)
    assert find_sampled(hidden, head, torch.zeros(len(hidden))) == [0] * len(hidden)
    largest = torch.full((len(hidden),), 1 - 2**-23)
    assert max(find_sampled(hidden, head, largest)) < len(head)


def test_sampled_tokens_come_as_often_as_predicted(hidden, head) -> None:
    count = 20_000
    places = torch.arange(count)
    uniforms = draw_uniforms(3, places // 50, places % 50)
    target = Target.SAMPLED_LOG_PROBABILITY
    same = hidden[:1].expand(count, -1)
    next_ids = torch.zeros(count, dtype=torch.long)
    found = compute_target_directions(same, next_ids, head, target, None, uniforms)
    # The mean gradient of a log-probability under the model's own distribution is zero.
    assert found.mean(0).abs().max() < 4 * float(head.abs().max()) / count**0.5


def test_a_sampled_target_needs_numbers(hidden, head) -> None:
    with pytest.raises(ValueError, match="needs uniforms"):
        compute_target_directions(hidden, NEXT_IDS, head, Target.SAMPLED_LOG_PROBABILITY)
