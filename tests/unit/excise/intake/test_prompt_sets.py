"""The prompt parser: what goes in comes out, and nothing else gets through."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from excise.intake import prompt_sets
from excise.intake.prompt_sets import (
    MAX_LINE_BYTES,
    MAX_PROMPT_BYTES,
    PromptSetError,
    find_format,
    parse_prompts,
    parse_rows,
)

PRINTABLE = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=200
).filter(lambda prompt: bool(prompt.strip()) and not prompt.startswith("\ufeff"))
LINES = PRINTABLE.filter(lambda prompt: not set("\n\r") & set(prompt))


def parse_texts(content: bytes, kind: str) -> list[str]:
    return [prompt.text for prompt in parse_prompts(content, kind)]


@given(st.lists(LINES, min_size=1, max_size=20), st.sampled_from(["\n", "\r\n", "\n\n", "\r"]))
def test_text_round_trips(prompts: list[str], separator: str) -> None:
    content = separator.join(prompts).encode()
    assert parse_texts(content, "text") == prompts


@given(
    st.lists(PRINTABLE, min_size=1, max_size=20),
    st.sampled_from(["prompt", "text"]),
    st.booleans(),
)
def test_jsonl_round_trips(prompts: list[str], field: str, ascii_only: bool) -> None:
    lines = [json.dumps({field: prompt, "id": 1}, ensure_ascii=ascii_only) for prompt in prompts]
    assert parse_texts("\n".join(lines).encode(), "jsonl") == prompts


@given(st.binary(max_size=300), st.sampled_from(["text", "jsonl"]))
def test_any_bytes_give_storable_prompts_or_a_clear_error(content: bytes, kind: str) -> None:
    try:
        prompts = parse_texts(content, kind)
    except PromptSetError as caught:
        refused = caught
    else:
        refused = None
    if refused is not None:
        assert len(refused.message) < 300
        return
    assert prompts
    for prompt in prompts:
        assert prompt.strip()
        assert "\0" not in prompt
        assert len(prompt.encode()) <= MAX_PROMPT_BYTES


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", "jsonl"),
        ("a.ndjson", "jsonl"),
        ("A.JSONL", "jsonl"),
        ("a.b.NdJson", "jsonl"),
        ("a.txt", "text"),
        ("jsonl", "text"),
    ],
)
def test_the_suffix_tells_the_format_in_letters_of_any_size(name: str, kind: str) -> None:
    assert find_format(Path("folder") / name) == kind


def test_objects_that_only_a_carriage_return_parts_are_refused_with_the_remedy() -> None:
    with pytest.raises(PromptSetError, match=r"Line 1 .* carriage return .*LF or CRLF"):
        parse_prompts(b'{"prompt": "one"}\r{"prompt": "two"}', "jsonl")
    assert parse_texts(b'{"prompt":\r"one"}\r\n', "jsonl") == ["one"]


def test_a_byte_order_mark_is_dropped() -> None:
    assert parse_texts(b"\xef\xbb\xbfone\ntwo", "text") == ["one", "two"]


def test_unicode_line_separators_do_not_end_a_prompt() -> None:
    assert parse_texts("a\u2028b\x0bc".encode(), "text") == ["a\u2028b\x0bc"]


@pytest.mark.parametrize("line", ["[" * 100_000, "1", '"a"', '{"prompt": 1}', '{"prompt": " "}'])
def test_jsonl_lines_that_hold_no_prompt(line: str) -> None:
    with pytest.raises(PromptSetError, match="ine 2"):
        parse_prompts(f'{{"prompt": "a"}}\n{line}'.encode(), "jsonl")


@pytest.mark.parametrize(
    "line",
    ['{"prompt": "a", "prompt": "b"}', '{"messages": [{"role": "user", "role": "system"}]}'],
)
def test_a_key_given_twice_is_refused(line: str) -> None:
    with pytest.raises(PromptSetError, match=r"On line 2, the key '\w+' is given twice"):
        parse_prompts(f'{{"prompt": "a"}}\n{line}'.encode(), "jsonl")


def test_a_chat_keeps_its_messages() -> None:
    rows = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]
    (prompt,) = parse_prompts(json.dumps({"messages": rows}).encode(), "jsonl")
    assert prompt.text == "Be kind.\nHi"
    assert [vars(message) for message in prompt.messages] == rows


@pytest.mark.parametrize(
    ("messages", "mention"),
    [
        ([], "1 to 64 messages"),
        ("Hi", "1 to 64 messages"),
        ([{"role": "user", "content": "a"}] * 65, "1 to 64 messages"),
        ([{"role": "robot", "content": "a"}], "lacks a role"),
        ([{"role": "user", "content": " "}], "not blank"),
        ([{"role": "user"}], "not blank"),
        (["Hi"], "lacks a role"),
        ([{"role": "user", "content": "a\0"}], "NUL"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "the user's"),
    ],
)
def test_chats_that_cannot_be_answered(messages: object, mention: str) -> None:
    content = json.dumps({"prompt": "a"}) + "\n" + json.dumps({"messages": messages})
    with pytest.raises(PromptSetError, match="ine 2") as caught:
        parse_prompts(content.encode(), "jsonl")
    assert mention in caught.value.message


ROW_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | PRINTABLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(PRINTABLE, inner, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(st.dictionaries(PRINTABLE, ROW_VALUES, min_size=1, max_size=3), min_size=1, max_size=5)
)
def test_rows_come_back_as_they_were(rows: list[dict[str, object]]) -> None:
    content = "\n\n".join(map(json.dumps, rows)).encode()
    assert [json.loads(line) for line in parse_rows(content)] == rows


@given(st.binary(max_size=300))
def test_any_bytes_give_storable_rows_or_a_clear_error(content: bytes) -> None:
    try:
        rows = parse_rows(content)
    except PromptSetError:
        return
    assert all(isinstance(json.loads(row), dict) and "\0" not in row for row in rows)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "no rows"),
        (b"[1]", "Line 1 is not an object"),
        (b'{"a": 1}\n{}', "Line 2 is not an object"),
        (b"{", "not valid JSON"),
        (b'{"a": 1}\n{"a": 1, "b": {"c": 1, "c": 1}}', "On line 2, the key 'c' is given twice"),
        (b'{"a": NaN}', "not finite"),
        (b'{"a": ["\\ud800"]}', "half a surrogate"),
        (b'{"a": {"\\u0000": 1}}', "NUL"),
        (b'{"a": ' + b"[" * 9 + b"]" * 9 + b"}", "nested more than 8"),
        (b'{"a": ' + b"[" * 3000 + b"]" * 3000 + b"}", "nested|not valid JSON"),
        (b'{"a": "' + b"x" * MAX_PROMPT_BYTES + b'"}', "the limit is"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_bad_rows_are_refused_with_the_line(content: bytes, says: str) -> None:
    with pytest.raises(PromptSetError, match=says):
        parse_rows(content)


def test_rows_are_no_prompts() -> None:
    with pytest.raises(PromptSetError, match="rows, not prompts"):
        parse_prompts(b'{"prompt": "x"}', "rows")


def test_a_line_too_long_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of empty lists in 8 MB took 200 MB of memory, in a field that nobody reads."""
    monkeypatch.setattr(prompt_sets, "load_json", lambda _: pytest.fail("it was parsed"))
    line = b'{"prompt": "x", "more": [' + b"[]," * (MAX_LINE_BYTES // 3) + b"[]]}"
    with pytest.raises(PromptSetError, match=r"Line 1 is \d+ characters long; the limit is 262144"):
        parse_prompts(line, "jsonl")
