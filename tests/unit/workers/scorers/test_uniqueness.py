"""Response uniqueness ratio by hand, and as a scorer; which tokens of a response repeat."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from excise.names import Direction
from workers.scorers.scorer import Answer, BehaviourScorer
from workers.scorers.uniqueness import (
    UniquenessScorer,
    compute_response_uniqueness,
    find_repeated_tokens,
    list_units,
)


@pytest.mark.parametrize(
    ("response", "ratio"),
    [
        ((), 0.0),
        ((5,), 1.0),
        ((5, 5), 0.5),
        ((1, 2, 3, 4), 1.0),
        ((1, 2, 1, 2, 1, 2, 1, 2), 0.25),
        ((0, 0, 0), 1 / 3),
        ([7, 8, 7], 2 / 3),
    ],
)
def test_unique_tokens_over_tokens(response, ratio: float) -> None:
    assert compute_response_uniqueness(response) == ratio


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_repeating_a_response_lowers_the_ratio(response: list[int]) -> None:
    once = compute_response_uniqueness(response)
    assert 0 < once <= 1
    assert compute_response_uniqueness(response * 2) == pytest.approx(once / 2)
    assert compute_response_uniqueness(response[::-1]) == once


def test_token_ids_count_not_the_text() -> None:
    scorer: BehaviourScorer = UniquenessScorer()
    answers = [
        Answer("p", "a b c d", (7, 7, 7, 7)),
        Answer("p", "a a", (1, 2)),
        Answer("p", "", ()),
    ]
    assert scorer.score(answers) == [0.25, 1.0, 0.0]
    assert scorer.direction is Direction.HIGHER_IS_BETTER
    assert scorer.score([]) == []


THAI = "วันนี้อากาศดี"
"""Sound text: of 13 characters 10 differ, and no two stand side by side again."""


def test_characters_count_where_tokens_are_pieces_of_them() -> None:
    ids = tuple(THAI.encode())
    assert len(set(ids)) / len(ids) < 0.5
    loop = "ดี" * 8
    answers = [Answer("p", text, tuple(text.encode())) for text in (THAI, loop)]
    assert UniquenessScorer().score(answers) == [10 / 13, 2 / 16]
    assert list_units((1, 2, 3), "abc") == list_units((1, 2, 3), None) == (1, 2, 3)
    assert list_units((1, 2, 3), "") == (1, 2, 3)  # special tokens are no text


def test_bytes_that_come_again_are_no_loop() -> None:
    ids = tuple(THAI.encode())
    assert any(find_repeated_tokens((), ids))
    assert not any(find_repeated_tokens((), ids, THAI))
    twice = find_repeated_tokens((), ids * 2, THAI * 2)
    assert not any(twice[: len(ids)])
    assert all(twice[len(ids) + 5 :])


def test_a_loop_is_marked_from_its_second_turn():
    assert find_repeated_tokens((9,), (1, 2, 3, 1, 2, 3)) == (
        *(False, False, False),
        *(False, True, True),
    )


def test_a_response_that_continues_the_prompts_pattern_is_marked():
    assert find_repeated_tokens((1, 2, 1), (2, 1, 7)) == (True, True, False)


def test_nothing_is_marked_in_fresh_text():
    assert find_repeated_tokens((1, 2), (3, 4, 5)) == (False, False, False)


def test_an_empty_prompt_or_response():
    assert find_repeated_tokens((), (1, 1, 1)) == (False, False, True)
    assert find_repeated_tokens((1, 2), ()) == ()
