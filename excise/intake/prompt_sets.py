"""Parsing uploaded files into prompts or rows; pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from excise.errors import UserError
from excise.intake.duplicates import DuplicateKeyError
from excise.intake.json_documents import load_json
from excise.names import PromptSetFormat

FORMATS = ("text", "jsonl", "rows")
MAX_ROW_DEPTH = 8
MAX_PROMPTS = 20_000
MAX_PROMPT_BYTES = 32 * 1024
MAX_LINE_BYTES = 8 * MAX_PROMPT_BYTES
"""Of JSON, in which a prompt is up to six times as long; before it is parsed, since lists of empty
objects take fifty times their bytes in memory."""
MAX_MESSAGES = 64
ROLES = ("system", "user", "assistant")
JSON_LINES_SUFFIXES = frozenset({".jsonl", ".ndjson"})
"""Suffixes of files that hold a JSON object a line, in small letters; other files hold text."""


class PromptSetError(UserError):
    """A file of prompts or rows breaks a rule; the message names the line and the remedy."""


@dataclass(frozen=True)
class Message:
    """One message of a chat."""

    role: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """One prompt of a set: raw text, or a chat for the model to continue."""

    text: str
    """The text; for a chat, the contents of its messages joined by line breaks."""
    messages: tuple[Message, ...] = ()
    """Empty for raw text."""


def find_format(path: PurePath) -> PromptSetFormat:
    """Return the format of a file of prompts, which the suffix of its name tells."""
    is_json = path.suffix.lower() in JSON_LINES_SUFFIXES
    return PromptSetFormat.JSONL if is_json else PromptSetFormat.TEXT


def parse_prompts(content: bytes, format: str) -> list[Prompt]:  # noqa: A002 - the API's name
    """Return the prompts in `content`, in order: between 1 and `MAX_PROMPTS`, none blank.

    `format` is `text` (one prompt per line, which LF, CRLF or CR ends) or `jsonl` (one object per
    line, with a `prompt` or `text` string, or a list of `messages`). Blank lines are skipped.
    Raises `PromptSetError`, naming the line.
    """
    if format == "rows":
        raise _invalid("The set holds rows, not prompts. Upload the file without format=rows.")
    if format == "text":
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    prompts: list[Prompt] = []
    for number, line in _lines(content):
        prompt = Prompt(line) if format == "text" else _parse_prompt(line, number)
        _check_prompt(prompt.text, number)
        prompts.append(prompt)
        if len(prompts) > MAX_PROMPTS:
            raise _invalid(
                f"The file has more than {MAX_PROMPTS} prompts, which is the limit. Split the set."
            )
    if not prompts:
        raise _invalid("The file has no prompts. Send at least one non-blank line.")
    return prompts


def parse_rows(content: bytes) -> list[str]:
    """Return the lines of `content` that hold a row: a JSON object with at least one field.

    Which fields a row needs is checked by whoever reads it; here, all values are checked to be
    storable. Blank lines are skipped. Raises `PromptSetError`, naming the line.
    """
    rows: list[str] = []
    for number, line in _lines(content):
        _check_size(line, number, "row")
        fields = _parse_json(line, number)
        if not isinstance(fields, dict) or not fields:
            raise _invalid(
                f"Line {number} is not an object with fields. Write one object a line, like "
                '{"clean": "...", "corrupted": "...", "answer": " ...", "wrong": " ..."}.'
            )
        _check_row_value(fields, number, 1)
        rows.append(line)
        if len(rows) > MAX_PROMPTS:
            raise _invalid(
                f"The file has more than {MAX_PROMPTS} rows, which is the limit. Split the set."
            )
    if not rows:
        raise _invalid("The file has no rows. Send at least one non-blank line.")
    return rows


def _check_row_value(value: object, number: int, depth: int) -> None:
    """Raise for text that cannot be stored, numbers that are not finite, and too deep nesting."""
    if depth > MAX_ROW_DEPTH:
        raise _invalid(
            f"The row on line {number} is nested more than {MAX_ROW_DEPTH} deep. Flatten it."
        )
    if isinstance(value, str):
        _check_storable(value, number, "row")
    elif isinstance(value, float) and not math.isfinite(value):
        raise _invalid(f"The row on line {number} has a number that is not finite. Remove it.")
    elif isinstance(value, dict):
        for name, child in value.items():
            _check_storable(name, number, "row")
            _check_row_value(child, number, depth + 1)
    elif isinstance(value, list):
        for child in value:
            _check_row_value(child, number, depth + 1)


def _lines(content: bytes) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) for non-blank lines, without line ends and byte order mark."""
    if b"\0" in content:
        at = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise _invalid(f"Line {at} has a NUL byte. Send plain UTF-8 text, not a binary file.")
    for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            line = raw.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError:
            raise _invalid(f"Line {number} is not UTF-8. Save the file as UTF-8.") from None
        if line.strip():
            yield number, line


def _parse_json(line: str, number: int) -> object:
    """Return the value of one line of JSON."""
    if len(line) > MAX_LINE_BYTES:
        raise _invalid(
            f"Line {number} is {len(line)} characters long; the limit is {MAX_LINE_BYTES}. Shorten "
            "it, or leave out the fields that are not read."
        )
    try:
        return load_json(line)
    except DuplicateKeyError as error:
        raise _invalid(f"On line {number}, {error}") from None
    except (ValueError, RecursionError):
        if "\r" in line:
            raise _invalid(
                f"Line {number} is not valid JSON: it holds a carriage return that ends no line. "
                "Save the file with LF or CRLF as line ends."
            ) from None
        raise _invalid(
            f'Line {number} is not valid JSON. Write one object a line, like {{"prompt": "..."}}.'
        ) from None


def _parse_prompt(line: str, number: int) -> Prompt:
    """Return the prompt in one line of JSON."""
    value = _parse_json(line, number)
    fields = value if isinstance(value, dict) else {}
    if "messages" in fields:
        messages = _parse_messages(fields["messages"], number)
        return Prompt("\n".join(message.content for message in messages), messages)
    prompt = fields.get("prompt", fields.get("text"))
    if not isinstance(prompt, str):
        raise _invalid(
            f"Line {number} has no string under 'prompt' or 'text', and no 'messages'. Write one "
            'object a line, like {"prompt": "..."}.'
        )
    return Prompt(prompt)


def _parse_messages(value: object, number: int) -> tuple[Message, ...]:
    """Return the messages of a chat, the last of which must be the user's."""
    rows = value if isinstance(value, list) else []
    if not 1 <= len(rows) <= MAX_MESSAGES:
        raise _invalid(
            f"'messages' on line {number} is not a list of 1 to {MAX_MESSAGES} messages. Write "
            '{"messages": [{"role": "user", "content": "..."}]}.'
        )
    messages = tuple(_parse_message(row, number) for row in rows)
    if messages[-1].role != "user":
        raise _invalid(
            f"The last message on line {number} is not the user's, so there is nothing to answer. "
            "End the chat with a message of the role user."
        )
    return messages


def _parse_message(value: object, number: int) -> Message:
    fields = value if isinstance(value, dict) else {}
    role, content = fields.get("role"), fields.get("content")
    if role not in ROLES or not isinstance(content, str) or not content.strip():
        raise _invalid(
            f"A message on line {number} lacks a role ({', '.join(ROLES)}) or a content that is "
            'not blank. Write {"role": "user", "content": "..."}.'
        )
    _check_storable(content, number, "message")
    return Message(role, content)


def _check_prompt(prompt: str, number: int) -> None:
    """Raise for a prompt that is blank, too long, or not storable as UTF-8 text."""
    if not prompt.strip():
        raise _invalid(f"The prompt on line {number} is blank. Remove it.")
    _check_storable(prompt, number, "prompt")
    _check_size(prompt, number, "prompt")


def _check_storable(text: str, number: int, what: str) -> None:
    """Raise for text that PostgreSQL cannot store."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise _invalid(f"The {what} on line {number} has half a surrogate pair. Remove it.")
    if "\0" in text:
        raise _invalid(f"The {what} on line {number} has a NUL character. Remove it.")


def _check_size(text: str, number: int, what: str) -> None:
    """Raise for text over the limit of bytes."""
    size = len(text.encode("utf-8"))
    if size > MAX_PROMPT_BYTES:
        raise _invalid(
            f"The {what} on line {number} is {size} bytes; the limit is {MAX_PROMPT_BYTES}. "
            "Shorten it."
        )


def _invalid(message: str) -> PromptSetError:
    return PromptSetError(message)
