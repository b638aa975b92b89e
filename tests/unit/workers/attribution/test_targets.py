"""Targets: which positions are explained, and directions that stand for logits."""

from __future__ import annotations

import pytest
import torch

from workers.attribution.targets import Target, compute_target_directions, find_target_positions
from workers.batches import build_batches
from workers.domain import TokenSequence


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


def test_the_log_probability_direction_is_its_gradient(hidden, head) -> None:
    leaf = hidden.clone().requires_grad_()
    log_probabilities = torch.log_softmax(leaf @ head.T, dim=-1)
    log_probabilities.gather(1, NEXT_IDS[:, None]).sum().backward()
    directions = compute_target_directions(hidden, NEXT_IDS, head, Target.EMITTED_LOG_PROBABILITY)
    torch.testing.assert_close(directions, leaf.grad)


@pytest.mark.parametrize("target", list(Target))
def test_directions_carry_no_graph_and_change_nothing(target, hidden, head) -> None:
    head.requires_grad_()
    before = hidden.clone(), NEXT_IDS.clone(), head.detach().clone()
    directions = compute_target_directions(hidden, NEXT_IDS, head, target, NEXT_IDS.flip(0))
    assert not directions.requires_grad
    assert directions.shape == hidden.shape
    for value, saved in zip((hidden, NEXT_IDS, head), before, strict=True):
        assert torch.equal(value, saved)


def test_sampled_tokens_follow_the_generator(hidden, head) -> None:
    def draw(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        target = Target.SAMPLED_LOG_PROBABILITY
        return compute_target_directions(hidden, NEXT_IDS, head, target, None, generator)

    assert torch.equal(draw(1), draw(1))
    assert any(not torch.equal(draw(1), draw(seed)) for seed in range(2, 12))


def test_a_sampled_direction_is_the_gradient_for_some_token(hidden, head) -> None:
    generator = torch.Generator().manual_seed(0)
    target = Target.SAMPLED_LOG_PROBABILITY
    found = compute_target_directions(hidden, NEXT_IDS, head, target, None, generator)
    expected = head[None] - (torch.softmax(hidden @ head.T, -1) @ head)[:, None]
    distance = (found[:, None] - expected).abs().amax(-1).min(dim=1).values
    assert distance.max() < 1e-5
