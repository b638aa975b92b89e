"""What follows reasoning: every marking, blocks that never end, marks that are special tokens."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.unit.workers.measuring.reasoning_cases import (
    ANSWER,
    CLOSED,
    OPEN,
    PLAIN,
    PROMPT_ENDS,
)
from workers.measuring.reasoning import (
    LEFT_OUT,
    NO_ANSWER,
    describe_answer,
    read_prefixes,
    read_response,
)
from workers.measuring.refusals import is_refusal

MARKS = ("<think>", "</think>", "<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<s>")
WORDS = (
    "w",
    "analysis",
    "assistant",
    "final",
    "Sure.",
    "No.",
    "No",
    "more.",
    "?",
    "I",
    "cannot",
    "help.",
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Words with a blank before them; the marks are special tokens, so that decoding drops them."""
    vocabulary = {f"▁{word}": index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="▁?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="▁?")
    fast.add_special_tokens({"additional_special_tokens": list(MARKS)})
    return fast


TOKENIZER = build_tokenizer()


def encode(*tokens: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.convert_tokens_to_ids([t if t in MARKS else f"▁{t}" for t in tokens]))


def find_answer(text: str, prompt: str = "") -> str:
    """The answer in a response whose tokens are its characters, to a prompt of one token."""
    pieces = [prompt, *text]
    tokenizer = SimpleNamespace(decode=lambda ids: "".join(pieces[number] for number in ids))
    return read_response(tokenizer, [0], range(1, len(pieces))).answer


@pytest.mark.parametrize("response", CLOSED.values(), ids=CLOSED.keys())
def test_the_answer_is_what_follows(response: str) -> None:
    assert find_answer(response) == ANSWER
    assert is_refusal(find_answer(response))


@pytest.mark.parametrize("response", OPEN.values(), ids=OPEN.keys())
def test_reasoning_that_never_ends_is_no_answer(response: str) -> None:
    assert find_answer(response) == ""


@pytest.mark.parametrize("response", PLAIN)
def test_without_reasoning_nothing_changes(response: str) -> None:
    assert find_answer(response) == response


@pytest.mark.parametrize("end", PROMPT_ENDS)
def test_the_chat_template_may_have_opened_the_block(end: str) -> None:
    prompt = f"<|user|>How?{end}"
    closing = {"<seed:think>": "</seed:think>", "[THINK]": "[/THINK]"}.get(end, "</think>")
    closing = "◁/think▷" if "◁" in end else closing
    assert find_answer("Sure, I can tell", prompt) == ""
    assert find_answer(f"Sure.{closing}\n{ANSWER}", prompt) == ANSWER
    assert find_answer("", prompt) == ""


@pytest.mark.parametrize("prompt", ["", "What is <think>?", "<think>\n\n</think>\n\n", "hi"])
def test_a_prompt_that_ends_otherwise_opens_nothing(prompt: str) -> None:
    assert find_answer(ANSWER, prompt) == ANSWER


@given(st.lists(st.sampled_from([*MARKS, "[THINK]", "[/THINK]", "a", "\n", "`", " "])))
def test_whatever_is_written_the_answer_is_a_part_of_it(parts: list[str]) -> None:
    text = "".join(parts)
    assert find_answer(text) in text
    assert find_answer(find_answer(text)) in find_answer(text)


def test_marks_that_are_special_tokens_are_seen_before_they_are_dropped() -> None:
    ids = encode("<think>", "Sure.", "</think>", "No.", "No", "more.")
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "Sure. No. No more."
    found = read_response(TOKENIZER, encode("w"), ids, skip_special_tokens=True)
    assert found.answer == "No. No more."
    assert (found.reasoning_tokens, found.answer_ids) == (3, ids[3:])
    assert found.token_ids == ids


def test_harmony_is_read_from_its_special_tokens() -> None:
    ids = encode(
        *("<|channel|>", "analysis", "<|message|>", "Sure.", "<|end|>", "<|start|>", "assistant"),
        *("<|channel|>", "final", "<|message|>", "No.", "<|end|>"),
    )
    found = read_response(TOKENIZER, encode("w"), ids)
    assert (found.answer, found.reasoning_tokens) == ("No.", 10)
    assert read_response(TOKENIZER, encode("w"), ids[:7]).answer == ""


def test_what_never_answers_has_no_tokens_of_an_answer() -> None:
    ids = encode("<think>", "Sure.", "No.")
    found = read_response(TOKENIZER, encode("w"), ids, skip_special_tokens=True)
    assert (found.answer, found.reasoning_tokens, found.answer_ids) == ("", 3, ())
    opened = read_response(TOKENIZER, encode("w", "<think>"), encode("Sure.", "No."))
    assert (opened.answer, opened.answer_ids) == ("", ())


@pytest.mark.parametrize("skips", [False, True])
def test_without_marks_the_reading_is_the_tokenizer_s_own(skips: bool) -> None:
    ids = encode("No.", "<s>", "No", "more.")
    found = read_response(TOKENIZER, encode("w"), ids, skip_special_tokens=skips)
    assert found.answer == TOKENIZER.decode(ids, skip_special_tokens=skips)
    assert (found.reasoning_tokens, found.answer_ids) == (0, ids)


def test_prefixes_answer_from_where_the_whole_response_does() -> None:
    ids = encode("<think>", "Sure.", "</think>", "No.", "more.")
    found = read_prefixes(TOKENIZER, encode("w"), ids)
    assert [one.answer for one in found] == ["", "", "", "No.", "No. more."]
    assert [one.answer_ids for one in found] == [(), (), (), ids[3:4], ids[3:]]


def test_prefixes_without_reasoning_are_the_tokenizer_s_own() -> None:
    ids = encode("No.", "<s>", "more.")
    found = read_prefixes(TOKENIZER, encode("w"), ids)
    assert [one.answer for one in found] == [TOKENIZER.decode(ids[:end]) for end in (1, 2, 3)]
    assert [one.token_ids for one in found] == [ids[:1], ids[:2], ids]


def test_a_report_says_what_it_left_out() -> None:
    assert describe_answer("No.", 0) == "No."
    assert describe_answer("No.", 3) == f"{LEFT_OUT} No."
    assert describe_answer("", 3) == NO_ANSWER
    assert describe_answer("", 0) == ""
