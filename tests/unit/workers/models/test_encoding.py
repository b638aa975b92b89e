"""Texts to tokens: the beginning is there exactly where the tokenizer itself puts it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import processors
from transformers import PreTrainedTokenizerFast

from tests.tiny import build_tiny_tokenizer
from workers.correction.preparation import ReferenceTokens, split_reference
from workers.models import encoding
from workers.models.encoding import (
    ChatTemplateError,
    cut_corpus,
    cut_windows,
    encode_chat,
    encode_part,
    encode_text,
    find_answer_end,
    find_beginning,
)

BOS, EOS = 77, 78


def build_tokenizer(template: str = "$A") -> PreTrainedTokenizerFast:
    """The tiny tokenizer with `w77` as its `bos_token`, putting what the template says."""
    tokenizer = build_tiny_tokenizer()
    tokenizer.bos_token = f"w{BOS}"
    special = [(f"w{BOS}", BOS), (f"w{EOS}", EOS)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=special
    )
    return tokenizer


BEGINS = f"w{BOS} $A"


@pytest.mark.parametrize(
    ("template", "beginning"),
    [("$A", ()), (BEGINS, (BOS,)), (f"{BEGINS} w{EOS}", (BOS,)), (f"$A w{EOS}", ())],
)
def test_only_what_the_tokenizer_itself_puts_first_is_a_beginning(
    template: str, beginning: tuple[int, ...]
) -> None:
    tokenizer = build_tokenizer(template)
    assert find_beginning(tokenizer) == beginning
    assert encode_text(tokenizer, "w1 w2") == (*beginning, 1, 2)
    assert encode_part(tokenizer, "w1 w2") == (1, 2)


def test_a_tokenizer_without_the_token_puts_none() -> None:
    assert find_beginning(build_tiny_tokenizer()) == ()


def test_a_first_word_that_is_the_token_is_not_put_there() -> None:
    tokenizer = build_tiny_tokenizer()
    tokenizer.bos_token = "w0"  # what any unknown text becomes
    assert find_beginning(tokenizer) == ()


def test_a_template_writes_the_beginning_itself() -> None:
    tokenizer = build_tokenizer(BEGINS)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %} w90 {{ message['content'] }}{% endfor %}"
        "{% if add_generation_prompt %} w92{% endif %}"
    )
    assert encode_chat(tokenizer, [{"role": "user", "content": "w1"}]) == (BOS, 90, 1, 92)


def test_an_answer_ends_as_the_template_ends_it() -> None:
    tokenizer = build_tiny_tokenizer()
    assert find_answer_end(tokenizer) is None
    tokenizer.eos_token = "w5"
    assert find_answer_end(tokenizer) == 5
    tokenizer.add_special_tokens({"additional_special_tokens": ["w8", "w9"]})
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message['role'] == 'user' %} w8{% else %} w7{% endif %}"
        " {{ message['content'] }}{% if message['role'] != 'user' %} w9{% endif %}{% endfor %}"
        "{% if add_generation_prompt %} w8{% endif %}"
    )
    assert find_answer_end(tokenizer) == 9


@given(st.integers(0, 40), st.integers(2, 12))
def test_windows_hold_the_text_once_and_begin_alike(count: int, length: int) -> None:
    text = " ".join(f"w{index}" for index in range(count))
    plain, beginning = build_tokenizer(), build_tokenizer(BEGINS)
    windows = list(cut_windows(beginning, text, length))
    assert all(window[0] == BOS and 1 < len(window) <= length for window in windows)
    assert all(len(window) == length for window in windows[:-1])
    assert [token for window in windows for token in window[1:]] == list(range(count))
    assert [token for window in cut_windows(plain, text, length) for token in window] == list(
        range(count)
    )


def test_corpus_and_reference_begin_where_the_tokenizer_puts_a_beginning() -> None:
    tokenizer = build_tokenizer(BEGINS)
    lines = ["w1 w2 w3", "w4 w5 w6 w7"]
    assert cut_corpus(tokenizer, lines, 4, 9, name="text") == ((BOS, 1, 2, 3), (BOS, 4, 5, 6))
    texts = [" ".join(f"w{10 * part + index}" for index in range(10)) for part in range(6)]
    split = split_reference(tokenizer, texts, ReferenceTokens(10**6, 10**6, 10**6))
    parts = [*split.attribute, *split.tune, *split.held_out]
    assert sorted(parts) == [(BOS, *range(start, start + 10)) for start in range(0, 60, 10)]


def test_a_text_that_brings_the_beginning_along_gets_no_second_one() -> None:
    tokenizer = build_tokenizer(BEGINS)
    assert encode_text(tokenizer, f"w{BOS} w1 w2") == (BOS, 1, 2)
    assert encode_text(tokenizer, "w1 w2") == (BOS, 1, 2)


def test_a_template_that_asks_for_today_gets_the_same_day_every_time() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = (
        "{% if strftime_now('%d %b %Y') == '26 Jul 2024' %}w1{% else %}w2{% endif %}"
        "{% for message in messages %} {{ message['content'] }}{% endfor %}"
    )
    assert encode_chat(tokenizer, [{"role": "user", "content": "w3"}]) == (1, 3)


def test_of_several_templates_the_default_one_counts_and_gets_the_same_day_too() -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = {
        "default": "{% if strftime_now('%Y') == '2024' %}w1 {% endif %}{{ messages[0].content }}",
        "tool_use": "w2",
    }
    assert encode_chat(tokenizer, [{"role": "user", "content": "w3"}]) == (1, 3)
    tokenizer.chat_template = {"rag": "w1", "tool_use": "w2"}
    with pytest.raises(ChatTemplateError, match=r"\(rag, tool_use\) none is called default; save"):
        encode_chat(tokenizer, [{"role": "user", "content": "w3"}])


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ tools | length }}", "TypeError: object of type 'NoneType'"),
        ("{{ messages.index('x') }}", "ValueError: 'x' is not in list"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"),
    ],
)
def test_a_template_that_fails_is_the_checkpoints_fault(template: str, error: str) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ChatTemplateError, match=rf"fails on the roles user \({error}"):
        encode_chat(tokenizer, [{"role": "user", "content": "w3"}])


def test_a_template_that_does_not_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "TEMPLATE_SECONDS", 0.2)
    tokenizer = build_tokenizer()
    loop = "{% for x in range(99999) %}"
    tokenizer.chat_template = loop * 3 + "{% endfor %}" * 3
    with pytest.raises(ChatTemplateError, match="does not end within"):
        encode_chat(tokenizer, [{"role": "user", "content": "w3"}])


@pytest.mark.parametrize("digits", [999_999_999_999_999, 2 * encoding.TEMPLATE_BYTES])
def test_a_template_that_asks_for_much_memory_is_refused(digits: int) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = f"{{{{ '%0{digits}d' | format(1) | length }}}}"
    with pytest.raises(ChatTemplateError, match="or within memory"):
        encode_chat(tokenizer, [{"role": "user", "content": "w3"}])


def test_a_corpus_that_is_too_short_is_called_by_its_name() -> None:
    with pytest.raises(ValueError, match=r"calibration\.prompts has 2 tokens, one window needs 9"):
        cut_corpus(build_tokenizer(), ["w1 w2"], 9, 1, name="calibration.prompts")
