"""Prompts through the chat template where there is one, raw where there is none."""

from __future__ import annotations

import pytest

from tests.tiny import build_tiny_tokenizer
from workers.models.encoding import Chat, ChatTemplateError
from workers.models.prompts import encode_all, encode_prompt, encode_prompts

TEMPLATE = (
    "{% for message in messages %}w90 {{ message['content'] }} w91 {% endfor %}"
    "{% if add_generation_prompt %}w92{% endif %}"
)


def test_a_prompt_goes_through_the_chat_template() -> None:
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    assert encode_prompt(tokenizer, "w1 w2") == (90, 1, 2, 91, 92)
    assert encode_prompt(tokenizer, "w1 w2", chat=False) == (1, 2)


def test_without_a_template_the_text_is_raw() -> None:
    assert encode_prompt(build_tiny_tokenizer(), "w1 w2") == (1, 2)


def test_prompts_that_do_not_fit_are_named() -> None:
    tokenizer = build_tiny_tokenizer()
    assert encode_prompts(tokenizer, ["w1 w2"], chat=True, longest=2) == [(1, 2)]
    with pytest.raises(ValueError, match=r"prompt 2 has 3 tokens, 2 fit .* shorten"):
        encode_prompts(tokenizer, ["w1", "w1 w2 w3"], chat=True, longest=2)
    with pytest.raises(ValueError, match="prompt 1 has no tokens"):
        encode_prompts(tokenizer, [" "], chat=True, longest=2)


TURNS = Chat((("system", "w5"), ("user", "w1 w2"), ("assistant", "w3"), ("user", "w4")))


def test_a_chat_goes_through_the_template_with_all_its_turns() -> None:
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    expected = (90, 5, 91, 90, 1, 2, 91, 90, 3, 91, 90, 4, 91, 92)
    for chat in (True, False):
        assert encode_prompt(tokenizer, TURNS, chat=chat) == expected
    assert TURNS.text == "w5\nw1 w2\nw3\nw4"


def test_a_chat_without_a_template_is_refused_by_its_number() -> None:
    tokenizer = build_tiny_tokenizer()
    with pytest.raises(ChatTemplateError, match=r"prompt 2: .* has no chat template; write"):
        encode_all(tokenizer, ["w1", TURNS], chat=False)


REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
DROPS = (
    "{% for message in messages if message['role'] != 'system' %}{{ message['content'] }}"
    "{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (REFUSES, "refuses the roles system, user, assistant, user: no system"),
        ("{{ messages[9]['content'] }}", "refuses the roles"),
        (DROPS, "leaves out message 1, of the role system"),
    ],
)
def test_a_template_that_takes_no_such_chat_is_named(template: str, words: str) -> None:
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ChatTemplateError, match=words):
        encode_prompt(tokenizer, TURNS)


def test_a_template_may_leave_out_parts_of_earlier_answers() -> None:
    tokenizer = build_tiny_tokenizer()
    tokenizer.chat_template = DROPS.replace("'system'", "'assistant'").replace("}}", "}} ")
    assert encode_prompt(tokenizer, TURNS) == (5, 1, 2, 4)
