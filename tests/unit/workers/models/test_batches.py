"""Padded batches: every sample once, pads on the right, within the token limit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers.domain import TokenSequence
from workers.models.batches import NO_CONTRAST, TokenBatch, build_batches

PAD = 99


def batches_of(samples: list[TokenSequence], tokens: int) -> list[TokenBatch]:
    return list(build_batches(samples, tokens, PAD))


def test_a_batch_is_padded_on_the_right_and_marks_the_response() -> None:
    samples = [TokenSequence((1, 2)), TokenSequence((3,), (4, 5)), TokenSequence((6, 7, 8), (9,))]
    (batch,) = batches_of(samples, 12)
    assert batch.sample_indices == (2, 1, 0)
    assert batch.token_ids.tolist() == [[6, 7, 8, 9], [3, 4, 5, PAD], [1, 2, PAD, PAD]]
    assert batch.is_token.tolist() == [
        [True, True, True, True],
        [True, True, True, False],
        [True, True, False, False],
    ]
    assert batch.is_explained.tolist() == [
        [False, False, False, True],
        [False, True, True, False],
        [False, False, False, False],
    ]


def test_equal_lengths_keep_their_order() -> None:
    samples = [TokenSequence((index, index)) for index in range(5)]
    assert [batch.sample_indices for batch in batches_of(samples, 4)] == [(0, 1), (2, 3), (4,)]


def test_a_sample_longer_than_the_limit_is_a_batch_of_its_own() -> None:
    samples = [TokenSequence((1,) * 10), TokenSequence((2,)), TokenSequence((3,))]
    assert [batch.sample_indices for batch in batches_of(samples, 4)] == [(0,), (1, 2)]


def test_an_empty_sample_is_refused_by_its_index() -> None:
    with pytest.raises(ValueError, match="sample 1 has no tokens"):
        batches_of([TokenSequence((1,)), TokenSequence(())], 8)


def test_no_samples_give_no_batches() -> None:
    assert batches_of([], 8) == []


def test_moving_a_batch_keeps_its_content() -> None:
    (batch,) = batches_of([TokenSequence((1,), (2,))], 8)
    moved = batch.to(torch.device("cpu"))
    assert moved.token_ids.tolist() == batch.token_ids.tolist()
    assert moved.is_token.tolist() == batch.is_token.tolist()
    assert moved.is_explained.tolist() == batch.is_explained.tolist()
    assert moved.sample_indices == batch.sample_indices


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), max_size=20), st.integers(1, 60))
def test_every_sample_comes_once_and_whole(lengths: list[tuple[int, int]], tokens: int) -> None:
    samples = [
        TokenSequence(tuple(range(prompt)), tuple(range(50, 50 + response)))
        for prompt, response in lengths
    ]
    batches = batches_of(samples, tokens)
    assert sorted(i for batch in batches for i in batch.sample_indices) == list(range(len(samples)))
    for batch in batches:
        rows, width = batch.token_ids.shape
        assert rows == 1 or rows * width <= tokens
        for row, index in enumerate(batch.sample_indices):
            sample = samples[index]
            assert tuple(batch.token_ids[row][batch.is_token[row]].tolist()) == sample.token_ids
            response = batch.token_ids[row][batch.is_explained[row]]
            assert tuple(response.tolist()) == sample.response_ids
            assert not (batch.is_token[row, 1:] & ~batch.is_token[row, :-1]).any()
            assert set(batch.token_ids[row][~batch.is_token[row]].tolist()) <= {PAD}


def test_flags_choose_the_response_tokens_to_be_explained():
    sample = TokenSequence((1, 2), (3, 4, 5), (False, True, False))
    (batch,) = build_batches([sample], 64, pad_id=0)
    assert batch.is_explained.tolist() == [[False, False, False, True, False]]


def test_flags_must_cover_the_response():
    with pytest.raises(ValueError, match="a flag for every response token"):
        list(build_batches([TokenSequence((1,), (2, 3), (True,))], 64, pad_id=0))


def test_contrasts_stand_at_their_response_tokens() -> None:
    samples = [TokenSequence((1, 2), (3, 4), contrast_ids=(8, 9)), TokenSequence((5,), (6,))]
    (batch,) = batches_of(samples, 100)
    none = NO_CONTRAST
    assert batch.contrast_ids.tolist() == [[none, none, 8, 9], [none] * 4]


def test_contrasts_must_cover_the_response() -> None:
    with pytest.raises(ValueError, match="a contrast for every response token"):
        batches_of([TokenSequence((1,), (2, 3), contrast_ids=(4,))], 100)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=9))
def test_halves_hold_the_same_samples_without_needless_pads(lengths: list[int]) -> None:
    samples = [TokenSequence(tuple(range(n)), (60 + n,), (True,), (70 + n,)) for n in lengths]
    (batch,) = batches_of(samples, 1000)
    halves = batch.halves()
    assert sum((half.sample_indices for half in halves), ()) == batch.sample_indices
    assert abs(len(halves[0].sample_indices) - len(halves[1].sample_indices)) <= 1
    for half in halves:
        own = [samples[index] for index in half.sample_indices]
        width = max(len(sample.token_ids) for sample in own)
        assert half.token_ids.shape == half.is_token.shape == (len(own), width)
        for row, sample in enumerate(own):
            assert tuple(half.token_ids[row][half.is_token[row]].tolist()) == sample.token_ids
            assert half.token_ids[row][half.is_explained[row]].tolist() == [60 + lengths_of(sample)]
            assert half.contrast_ids[row][half.is_explained[row]].tolist() == [
                70 + lengths_of(sample)
            ]


def lengths_of(sample: TokenSequence) -> int:
    return len(sample.prompt_ids)


def test_one_sample_cannot_be_halved() -> None:
    (batch,) = batches_of([TokenSequence((1, 2))], 100)
    with pytest.raises(ValueError, match="shorten it"):
        batch.halves()
