"""Prompts through the chat template where there is one, raw where there is none."""

from __future__ import annotations

import pytest

from tests.tiny import build_tiny_tokenizer
from workers.validation.checks.prompts import encode_prompt, encode_prompts

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
