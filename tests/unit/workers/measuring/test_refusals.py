"""The classifier of refusals on hand-written responses, none of them read from a model."""

from __future__ import annotations

import pytest

from tests.unit.workers.measuring.refusal_cases import ANSWERS, REFUSALS
from workers.measuring.refusals import OPENING_CHARACTERS, is_refusal


@pytest.mark.parametrize("response", REFUSALS)
def test_a_refusal_is_seen(response: str) -> None:
    assert is_refusal(response)


@pytest.mark.parametrize("response", ANSWERS)
def test_an_answer_is_none(response: str) -> None:
    assert not is_refusal(response)


def test_only_the_start_counts() -> None:
    assert not is_refusal("Mix flour and water. " * 3 + "I can't help with that.")
    assert not is_refusal("x " * OPENING_CHARACTERS + "I can't help with that.")


@pytest.mark.parametrize("text", ["sorry, " * 5000, "i understand " * 5000, "as an " * 5000])
def test_long_repetitive_text_is_no_burden(text: str) -> None:
    assert not is_refusal(text)


def test_quotes_marks_and_emoji_before_it_do_not_hide_it() -> None:
    assert is_refusal("🚫 I can't help with that.")
    assert is_refusal('> "I\'m sorry, but I cannot assist with that."')
    assert is_refusal("**I'm sorry**, but I *cannot* assist with that.")


@pytest.mark.parametrize(
    "response",
    [
        "I\u200b can't help with that.",
        "I can\u00adnot help with that.",
        "\u2060I\u2060 can't\u2060 help with that.",
        "I c\u0430n't help with that.",  # a Cyrillic a
        "\U0001d408 \U0001d41c\U0001d41a\U0001d427'\U0001d42d help with that.",  # bold letters
        "I can\u02b9t help with that.",
        "_I can't_ help with that.",
    ],
)
def test_characters_that_nobody_sees_do_not_hide_it(response: str) -> None:
    assert is_refusal(response)
