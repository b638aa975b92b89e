"""Turning an uploaded file into prompts. Pure: bytes in, prompts or a clear error out."""

from __future__ import annotations

import json
from collections.abc import Iterator

from service.errors import InvalidRequestError

FORMATS = ("text", "jsonl")
MAX_PROMPTS = 20_000
MAX_PROMPT_BYTES = 32 * 1024


def parse_prompts(content: bytes, format: str) -> list[str]:  # noqa: A002 - the API's name
    """The prompts in `content`, in order: between 1 and `MAX_PROMPTS`, none blank.

    `format` is `text` (one prompt a line) or `jsonl` (one object a line, with a `prompt` or
    `text` string). Blank lines are skipped. Raises `InvalidRequestError` naming the line.
    """
    prompts: list[str] = []
    for number, line in _lines(content):
        prompt = line if format == "text" else _parse_object(line, number)
        _check_prompt(prompt, number)
        prompts.append(prompt)
        if len(prompts) > MAX_PROMPTS:
            raise _invalid(
                f"The file has more than {MAX_PROMPTS} prompts, which is the limit. Split the set."
            )
    if not prompts:
        raise _invalid("The file has no prompts. Send at least one non-blank line.")
    return prompts


def _lines(content: bytes) -> Iterator[tuple[int, str]]:
    """The non-blank lines with their numbers from 1, without line ends or a byte order mark."""
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


def _parse_object(line: str, number: int) -> str:
    """The prompt in one line of JSON."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise _invalid(
            f'Line {number} is not valid JSON. Write one object a line, like {{"prompt": "..."}}.'
        ) from None
    fields = value if isinstance(value, dict) else {}
    prompt = fields.get("prompt", fields.get("text"))
    if not isinstance(prompt, str):
        raise _invalid(
            f"Line {number} has no string under 'prompt' or 'text'. Write one object a line, like "
            '{"prompt": "..."}.'
        )
    return prompt


def _check_prompt(prompt: str, number: int) -> None:
    """Refuse a prompt that is blank, too long, or not storable as UTF-8 text."""
    if not prompt.strip():
        raise _invalid(f"The prompt on line {number} is blank. Remove it.")
    try:
        size = len(prompt.encode("utf-8"))
    except UnicodeEncodeError:
        raise _invalid(
            f"The prompt on line {number} has half a surrogate pair. Remove it."
        ) from None
    if "\0" in prompt:
        raise _invalid(f"The prompt on line {number} has a NUL character. Remove it.")
    if size > MAX_PROMPT_BYTES:
        raise _invalid(
            f"The prompt on line {number} is {size} bytes; the limit is {MAX_PROMPT_BYTES}. "
            "Shorten it."
        )


def _invalid(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, param="body")
