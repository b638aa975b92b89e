"""Words of scripts with and without blanks between them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.words import (
    cut_pieces,
    drop_blanks,
    ends_with_sign,
    find_words,
    has_word,
    is_sign,
    join_words,
    list_words,
    normalise,
    weigh_word,
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't STOP_it, 2nd!", ("don", "t", "stop", "it", "2nd")),
        ("他说很好。OK", ("他", "说", "很", "好", "ok")),
        ("バカー、々。", ("バ", "カ", "ー", "々")),
        ("คนโง่", ("ค", "น", "โ", "ง่")),  # marks go with their letter
        ("ខ្មែរ។", ("ខ្", "មែ", "រ")),
        ("너는 바보야", ("너는", "바보야")),
        ("हिन्दी भाषा", ("हिन्दी", "भाषा")),
        ("ＩＤＩ\u200bＯＴ", ("idiot",)),
        ("…", ()),
    ],
)
def test_signs_are_words_where_no_blanks_part_words(text: str, words: tuple[str, ...]) -> None:
    assert list_words(text) == words
    assert has_word(text) is bool(words)
    seen = normalise(text)
    assert [seen[start:end] for _, (start, end) in find_words(seen)] == [
        word for word, _ in find_words(seen)
    ]


def test_a_sign_is_less_than_a_word() -> None:
    assert [weigh_word(word) for word in ("idiot", "蛋", "カ", "바보야", "ง่")] == [
        1,
        0.5,
        0.5,
        1,
        0.25,
    ]
    assert [is_sign(word) for word in ("蛋x", "x蛋", "", "。")] == [True, False, False, False]
    assert [ends_with_sign(word) for word in ("蛋x", "x蛋", "", "ง่")] == [False, True, False, True]


def test_pieces_carry_the_blanks_before_them() -> None:
    assert cut_pieces("So it is. 你好，世界。 OK\n") == [
        "So", " it", " is.", " 你", "好", "，", "世", "界", "。", " OK", "\n",
    ]  # fmt: skip


@given(st.text())
def test_pieces_join_to_the_text(text: str) -> None:
    assert "".join(cut_pieces(text)) == text


@given(st.lists(st.sampled_from(["a", "b", " ", "蛋", "ง่", "\n", "."])).map("".join))
def test_blanks_are_dropped_beside_signs_alone(text: str) -> None:
    closed, places = drop_blanks(text)
    assert "".join(text[place] for place in places) == closed
    assert list_words(closed) == list_words(text)
    spaced = text.translate({ord(sign): None for sign in "蛋ง่"})
    assert drop_blanks(spaced)[0] == spaced


def test_words_are_written_as_their_scripts_are() -> None:
    assert join_words(("use", "蓝", "天", "ok", "now")) == "use蓝天ok now"
