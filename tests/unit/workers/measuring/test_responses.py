"""Figures of responses against counts by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.measuring.responses import (
    compute_distinct_share,
    compute_response_figures,
    compute_self_repetition,
    says_something,
)


def test_figures_count_characters_where_tokens_are_pieces_of_them() -> None:
    text = "วันนี้อากาศดี"
    (found,) = (compute_response_figures([list(text.encode())], 100, [text]),)
    assert found.uniqueness == (10 / 13,)
    assert found.self_repetition == (0.0,)
    assert found.lengths == (39,)


def test_figures_by_hand() -> None:
    figures = compute_response_figures([[1, 2, 3], [], [4, 4, 4, 4]], 4)
    assert figures.lengths == (3, 0, 4)
    assert figures.is_empty == (False, True, False)
    assert figures.hits_limit == (False, False, True)
    assert figures.uniqueness == (1.0, 0.0, 0.25)
    assert figures.mean_length == pytest.approx(7 / 3)
    assert figures.mean_uniqueness == pytest.approx(1.25 / 3)
    assert figures.self_repetition == (0.0, 0.0, 0.0)
    assert [share.order for share in figures.distinct] == [1, 2, 3]
    assert figures.distinct[0].value == 4 / 7
    assert figures.distinct[1].value == 3 / 5


@pytest.mark.parametrize(
    "text",
    [
        *("", " \n\t", "...", "“”—", "()[]", "\u200b", "```\n```", "\ufffd" * 3),
        *("\u3164 \u3164", "\u115f\uffa0", "\u2800\u2800"),  # letters that show nothing
    ],
)
def test_blanks_and_punctuation_say_nothing(text: str) -> None:
    assert not says_something(text)
    assert compute_response_figures([[5]], 4, [text]).is_empty == (True,)


@pytest.mark.parametrize("text", ["no", "7", "👍", "=", "да", "…ok", "한", "\ufffdok"])
def test_letters_numbers_and_symbols_do(text: str) -> None:
    assert says_something(text)
    assert compute_response_figures([[5]], 4, [text]).is_empty == (False,)
    assert compute_response_figures([[]], 4, [text]).is_empty == (True,)


def test_a_loop_of_any_period_is_self_repetition() -> None:
    assert compute_self_repetition([1, 2, 3]) == 0.0
    assert compute_self_repetition([1, 2, 3, 4, 5]) == 0.0
    loop = list(range(10)) * 3  # 27 4-grams, 10 of them distinct
    assert compute_self_repetition(loop) == pytest.approx(17 / 27)


def test_the_same_answer_to_everything_lowers_diversity() -> None:
    varied = compute_distinct_share([[1, 2, 3], [4, 5, 6]], 2)
    same = compute_distinct_share([[1, 2, 3], [1, 2, 3]], 2)
    assert (varied.value, same.value) == (1.0, 0.5)
    assert compute_distinct_share([[1], []], 2).value == 0.0


@given(st.lists(st.lists(st.integers(0, 3), max_size=8), min_size=1, max_size=6))
def test_without_one_is_the_share_computed_anew(responses: list[list[int]]) -> None:
    for order in (1, 2, 3):
        found = compute_distinct_share(responses, order)
        for index, value in enumerate(found.without_one):
            rest = responses[:index] + responses[index + 1 :]
            assert value == pytest.approx(compute_distinct_share(rest, order).value)


def test_nothing_to_measure_and_unequal_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="no responses"):
        compute_response_figures([], 4)
    with pytest.raises(ValueError, match="got 1 for 2"):
        compute_response_figures([[1], [2]], 4, ["a"])
