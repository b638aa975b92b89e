"""Prompts and rows passed as Python values, stored under the ids by which a spec names them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from excise.estimates.prompts import SetSize
from excise.intake.prompt_sets import Prompt, PromptSetError, parse_prompts, parse_rows
from workers.stages.context import InvalidInputError
from workers.stages.inputs import SetInfo

_SET_FIELDS = ("prompts", "reference", "rows", "task")
"""Fields of specs that name a set; if one holds a list, the list becomes a set."""

_ROW_FIELDS = ("rows", "task")

_LIST_FIELDS = ("prompts", "reference", "rows")
"""Fields in which a single text is always a mistake. (A task can be the name of a built-in one.)"""

_ID_DIGITS = 24


@dataclass(frozen=True)
class _Set:
    name: str
    content: bytes
    format: str


class Sets:
    """Sets by id; equal content has the same id."""

    def __init__(self) -> None:
        self._sets: dict[str, _Set] = {}

    def file_lists(self, value: Any, where: str = "") -> Any:
        """Store every list of prompts or rows in a spec; return its plain values with ids instead.

        Raises `PromptSetError` for an invalid prompt or row, `InvalidInputError` for an empty list,
        and `TypeError` for a single text instead of a list, and for an entry of another type.
        """
        if isinstance(value, Mapping):
            return {key: self._file(key, entry, f"{where}{key}") for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self.file_lists(entry, where) for entry in value]
        return value

    def chats(self, set_id: str) -> list[Prompt]:
        """Return a set's prompts."""
        found = self._sets[set_id]
        return parse_prompts(found.content, found.format)

    def rows(self, set_id: str) -> list[str]:
        """Return a set's rows, as JSON lines."""
        return self._sets[set_id].content.decode().split("\n")

    def count(self, set_id: str) -> int:
        """Return the number of prompts or rows in a set."""
        return self._sets[set_id].content.count(b"\n") + 1

    def measure(self, set_id: str) -> SetSize:
        """Return the size of a set, with its tokens counted by its bytes."""
        return SetSize.of_file(self.count(set_id), len(self._sets[set_id].content))

    def describe(self, set_id: str) -> SetInfo:
        """Return the name, hash and format of a set, as shown in reports."""
        found = self._sets[set_id]
        return SetInfo(found.name, hashlib.sha256(found.content).hexdigest(), found.format)

    def _file(self, key: str, value: Any, where: str) -> Any:
        if key in _SET_FIELDS and isinstance(value, list | tuple):
            return self._add(value, where, is_rows=key in _ROW_FIELDS)
        if key in _LIST_FIELDS and isinstance(value, str):
            raise TypeError(f"{where} is one text; give a list of texts")
        return self.file_lists(value, f"{where}.")

    def _add(self, values: Sequence[Any], name: str, *, is_rows: bool) -> str:
        if not values:
            raise InvalidInputError(f"{name} is an empty list. Give at least one entry.")
        lines = [
            value if is_rows else _as_prompt(value, f"{name}: entry {number}")
            for number, value in enumerate(values, start=1)
        ]
        content = _write_lines(lines, name)
        kept = _Set(name.removesuffix(".prompts"), content, "rows" if is_rows else "jsonl")
        try:
            if is_rows:
                parse_rows(content)
            else:
                parse_prompts(content, kept.format)
        except PromptSetError as error:
            raise PromptSetError(f"{name}: {error.message}") from None
        set_id = f"ps_{hashlib.sha256(content).hexdigest()[:_ID_DIGITS]}"
        self._sets[set_id] = kept
        return set_id


def _write_lines(lines: Sequence[Any], name: str) -> bytes:
    """Return JSON lines. Half a surrogate pair becomes an escape, which the parser refuses."""
    try:
        text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    except TypeError as error:
        raise TypeError(f"{name}: {error}; give texts, numbers, lists and mappings") from None
    return text.encode(errors="backslashreplace")


def _as_prompt(value: Any, where: str) -> dict[str, Any]:
    """Return a prompt (a text or a chat's messages) as the JSON object of a line in a set."""
    if isinstance(value, str):
        return {"prompt": value}
    if not isinstance(value, list | tuple) or not all(isinstance(own, Mapping) for own in value):
        raise TypeError(
            f"{where} is a {type(value).__name__}; give a text, or a chat as a list of messages: "
            "[{'role': 'user', 'content': …}]"
        )
    return {"messages": [dict(message) for message in value]}
