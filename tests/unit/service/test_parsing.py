"""The prompt parser: what goes in comes out, and nothing else gets through."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidRequestError
from service.prompt_sets.parsing import MAX_PROMPT_BYTES, parse_prompts

PRINTABLE = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=200
).filter(lambda prompt: bool(prompt.strip()) and not prompt.startswith("\ufeff"))
LINES = PRINTABLE.filter(lambda prompt: "\n" not in prompt and not prompt.endswith("\r"))


@given(st.lists(LINES, min_size=1, max_size=20), st.sampled_from(["\n", "\r\n", "\n\n"]))
def test_text_round_trips(prompts: list[str], separator: str) -> None:
    content = separator.join(prompts).encode()
    assert parse_prompts(content, "text") == prompts


@given(
    st.lists(PRINTABLE, min_size=1, max_size=20),
    st.sampled_from(["prompt", "text"]),
    st.booleans(),
)
def test_jsonl_round_trips(prompts: list[str], field: str, ascii_only: bool) -> None:
    lines = [json.dumps({field: prompt, "id": 1}, ensure_ascii=ascii_only) for prompt in prompts]
    assert parse_prompts("\n".join(lines).encode(), "jsonl") == prompts


@given(st.binary(max_size=300), st.sampled_from(["text", "jsonl"]))
def test_any_bytes_give_storable_prompts_or_a_clear_error(content: bytes, kind: str) -> None:
    try:
        prompts = parse_prompts(content, kind)
    except InvalidRequestError as caught:
        refused = caught
    else:
        refused = None
    if refused is not None:
        assert refused.param == "body"
        assert len(refused.message) < 300
        return
    assert prompts
    for prompt in prompts:
        assert prompt.strip()
        assert "\0" not in prompt
        assert len(prompt.encode()) <= MAX_PROMPT_BYTES


def test_a_byte_order_mark_is_dropped() -> None:
    assert parse_prompts(b"\xef\xbb\xbfone\ntwo", "text") == ["one", "two"]


def test_unicode_line_separators_do_not_end_a_prompt() -> None:
    assert parse_prompts("a\u2028b\x0bc".encode(), "text") == ["a\u2028b\x0bc"]


@pytest.mark.parametrize("line", ["[" * 100_000, "1", '"a"', '{"prompt": 1}', '{"prompt": " "}'])
def test_jsonl_lines_that_hold_no_prompt(line: str) -> None:
    with pytest.raises(InvalidRequestError, match="ine 2"):
        parse_prompts(f'{{"prompt": "a"}}\n{line}'.encode(), "jsonl")
