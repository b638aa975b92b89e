"""Tasks for circuits: pairs of prompts with right and wrong answers, and files of such rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from excise.intake.duplicates import DuplicateKeyError
from excise.intake.json_documents import load_json
from excise.names import CircuitMetric
from workers.models.encoding import encode_text
from workers.models.tokenizer import Tokenizer


class TaskError(ValueError):
    """The task's rows cannot be used; the message names line, field and remedy."""


@dataclass(frozen=True)
class TaskRow:
    """A prompt, its corrupted twin aligned token by token, and the right and wrong answers."""

    clean_ids: tuple[int, ...]
    corrupted_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]
    """Token ids that are right answers; at least one."""
    wrong_ids: tuple[int, ...]
    group: str = ""
    """Shared by rows of the same kind, such as those of one template."""


@dataclass(frozen=True)
class Task:
    """Rows, and the metric by which they are measured."""

    name: str
    metric: CircuitMetric
    rows: tuple[TaskRow, ...]

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            needs_wrong = self.metric is CircuitMetric.LOGIT_DIFFERENCE
            if not row.answer_ids or (needs_wrong and not row.wrong_ids):
                raise TaskError(f"row {index} has no answer or no wrong answer; give one of each")
            if len(row.clean_ids) != len(row.corrupted_ids):
                raise TaskError(f"row {index}: clean and corrupted differ in length; align them")


def encode_row(
    tokenizer: Tokenizer,
    clean: str,
    corrupted: str,
    answer: str,
    wrong: str,
    where: str,
    group: str = "",
) -> TaskRow:
    """Return the row of two prompts with one right and one wrong answer token.

    `where` (such as `line 3`) begins every error message. Raises `TaskError` for prompts that are
    equal or have different numbers of tokens, and for answers that are not one token after the
    prompt.
    """
    clean_ids, corrupted_ids = encode_pair(tokenizer, clean, corrupted, where)
    answer_id = _find_answer(tokenizer, clean, clean_ids, answer, f"{where}, field answer")
    wrong_id = _find_answer(tokenizer, clean, clean_ids, wrong, f"{where}, field wrong")
    if answer_id == wrong_id:
        raise TaskError(f"{where}: answer and wrong begin alike; give two different tokens")
    return TaskRow(clean_ids, corrupted_ids, (answer_id,), (wrong_id,), group)


def parse_rows(lines: Iterable[str], tokenizer: Tokenizer) -> tuple[TaskRow, ...]:
    """Return the rows of a JSONL file: objects with clean, corrupted, answer and wrong.

    All are texts; an answer starts with the space that follows the prompt. An optional text
    `group` is shared by rows of the same kind. Empty lines are skipped. Raises `TaskError`.
    """
    rows: list[TaskRow] = []
    for where, fields in iterate_objects(lines):
        clean, corrupted = read_text(fields, "clean", where), read_text(fields, "corrupted", where)
        answer, wrong = read_text(fields, "answer", where), read_text(fields, "wrong", where)
        group = fields.get("group", "")
        if not isinstance(group, str):
            raise TaskError(f"{where}, field group: not a text; put it in quotes")
        rows.append(encode_row(tokenizer, clean, corrupted, answer, wrong, where, group))
    return _require_rows(rows)


def encode_pair(
    tokenizer: Tokenizer, clean: str, corrupted: str, where: str
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return both prompts' token ids; raises `TaskError` if they do not align or do not differ."""
    clean_ids = encode_text(tokenizer, clean)
    corrupted_ids = encode_text(tokenizer, corrupted)
    if not clean_ids:
        raise TaskError(f"{where}, field clean: no tokens; write a prompt")
    if len(clean_ids) != len(corrupted_ids):
        raise TaskError(
            f"{where}, field corrupted: {len(corrupted_ids)} tokens where clean has "
            f"{len(clean_ids)}; swap words of as many tokens, so that positions align"
        )
    if clean_ids == corrupted_ids:
        raise TaskError(f"{where}, field corrupted: the same tokens as clean; change a word")
    return clean_ids, corrupted_ids


def _find_answer(
    tokenizer: Tokenizer, prompt: str, prompt_ids: tuple[int, ...], answer: str, where: str
) -> int:
    ids = encode_text(tokenizer, prompt + answer)
    if ids[: len(prompt_ids)] != prompt_ids:
        raise TaskError(
            f"{where}: {answer!r} merges with the prompt's last token; start the answer with a "
            "space and end the prompt without one"
        )
    following = ids[len(prompt_ids) :]
    if len(following) != 1:
        raise TaskError(
            f"{where}: {answer!r} is {len(following)} tokens after the prompt; choose an answer "
            "of one token"
        )
    return following[0]


def iterate_objects(lines: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (`line 3`, object) for each JSONL line that is not empty; raises `TaskError`."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            fields = load_json(line)
        except DuplicateKeyError as error:
            raise TaskError(f"{where}: {error}") from error
        except ValueError as error:
            raise TaskError(f"{where}: not JSON ({error}); write one object a line") from error
        if not isinstance(fields, dict):
            raise TaskError(f"{where}: not an object; write one in braces, with field names")
        yield where, fields


def read_text(fields: dict[str, Any], name: str, where: str) -> str:
    """Return the field's text; raises `TaskError` if it is missing, empty or not a text."""
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise TaskError(f"{where}, field {name}: missing or not a text; give a non-empty text")
    return value


def _require_rows(rows: Sequence[TaskRow]) -> tuple[TaskRow, ...]:
    if not rows:
        raise TaskError("the task has no rows; give at least one")
    return tuple(rows)
