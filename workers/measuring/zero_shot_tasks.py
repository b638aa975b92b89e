"""The seven zero-shot tasks: their rows become multiple-choice questions, in the usual prompts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from excise.intake.duplicates import DuplicateKeyError
from excise.intake.json_documents import load_json
from excise.names import ZeroShotTask


class MalformedRowError(ValueError):
    """A row of a task file cannot be read; the message names file, line, field and remedy."""


@dataclass(frozen=True)
class Choice:
    """One possible answer, scored by how likely `continuation` is after `context`."""

    context: str
    continuation: str
    """The text that is scored, including the space that separates it from the context."""


@dataclass(frozen=True)
class Question:
    """A multiple-choice question."""

    choices: tuple[Choice, ...]
    answer: int
    """Index of the right choice."""


class _Row:
    """One JSON object of a task file; its fields are type-checked when read."""

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        self._values = values
        self._place = place

    def error(self, field: str, wanted: str) -> MalformedRowError:
        found = repr(self._values[field])[:60] if field in self._values else "nothing"
        return MalformedRowError(f"{self._place}: field {field!r} must be {wanted}, found {found}")

    def text(self, field: str) -> str:
        value = self._values.get(field)
        if not isinstance(value, str) or not value.strip():
            raise self.error(field, "a text")
        return value

    def flag(self, field: str) -> bool:
        value = self._values.get(field)
        if not isinstance(value, bool):
            raise self.error(field, "true or false")
        return value

    def index(self, field: str, count: int) -> int:
        value = self._values.get(field)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
            raise self.error(field, f"a whole number from 0 to {count - 1}")
        return value

    def texts(self, field: str) -> tuple[str, ...]:
        return self._check_texts(field, self._values.get(field))

    def labelled(self, field: str, answer: str) -> tuple[tuple[str, ...], int]:
        """Return the texts of `{"text": […], "label": […]}`, and the index of the right one.

        The field `answer` holds the right one's label.
        """
        value = self._values.get(field)
        if not isinstance(value, dict):
            raise self.error(field, "an object with 'text' and 'label'")
        texts = self._check_texts(field, value.get("text"))
        labels = self._check_texts(field, value.get("label"))
        if len(labels) != len(texts):
            raise self.error(field, "an object with as many labels as texts")
        key = self.text(answer)
        if key not in labels:
            raise self.error(answer, f"one of the labels {', '.join(labels)}")
        return texts, labels.index(key)

    def _check_texts(self, field: str, value: Any) -> tuple[str, ...]:
        is_list = isinstance(value, list) and len(value) > 1
        if not is_list or not all(isinstance(entry, str) and entry.strip() for entry in value):
            raise self.error(field, "a list of two texts or more")
        return tuple(value)


def parse_questions(lines: Iterable[str], task: ZeroShotTask, source: str) -> tuple[Question, ...]:
    """Return the questions in a task's JSON lines; blank lines are skipped.

    The fields are those of the published data sets (for HellaSwag, with the activity label already
    in `query`). `source` names the file in error messages. Raises `MalformedRowError`.
    """
    build = _BUILDERS[task]
    questions = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            place = f"{source}, line {number}"
            questions.append(build(_Row(_parse_object(line, place), place)))
    return tuple(questions)


def sample_questions(
    questions: Sequence[Question], limit: int | None, seed: int
) -> tuple[Question, ...]:
    """Return at most `limit` questions, drawn by `seed` without replacement, in original order."""
    if limit is None or limit >= len(questions):
        return tuple(questions)
    chosen = random.Random(seed).sample(range(len(questions)), limit)  # noqa: S311 - no secret
    return tuple(questions[index] for index in sorted(chosen))


def _parse_object(line: str, place: str) -> Mapping[str, Any]:
    try:
        values = load_json(line)
    except DuplicateKeyError as error:
        raise MalformedRowError(f"{place}: {error}") from error
    except ValueError as error:
        raise MalformedRowError(f"{place}: not JSON ({error}); write one object a line") from error
    if not isinstance(values, dict):
        raise MalformedRowError(f"{place}: a {type(values).__name__}, not an object; write one")
    return values


def _ask(context: str, answers: Sequence[str], answer: int) -> Question:
    return Question(tuple(Choice(context, f" {text}") for text in answers), answer)


def _build_boolq(row: _Row) -> Question:
    context = f"{row.text('passage')}\nQuestion: {row.text('question')}?\nAnswer:"
    return _ask(context, ("no", "yes"), int(row.flag("answer")))


def _build_rte(row: _Row) -> Question:
    claim = row.text("sentence2")
    context = f"{row.text('sentence1')}\nQuestion: {claim} True or False?\nAnswer:"
    return _ask(context, ("True", "False"), row.index("label", 2))


def _build_hellaswag(row: _Row) -> Question:
    endings = row.texts("choices")
    return _ask(row.text("query"), endings, row.index("gold", len(endings)))


def _build_winogrande(row: _Row) -> Question:
    """Partial evaluation: each option fills the blank, and the text after the blank is scored."""
    before, blank, after = row.text("sentence").partition("_")
    if not blank or not after.strip():
        raise row.error("sentence", "a text with a blank '_' and words after it")
    options = (row.text("option1"), row.text("option2"))
    answer = row.text("answer")
    if answer not in ("1", "2"):
        raise row.error("answer", "'1' or '2'")
    continuation = f" {after.strip()}"
    choices = tuple(Choice(before + option, continuation) for option in options)
    return Question(choices, int(answer) - 1)


def _build_arc(row: _Row) -> Question:
    texts, answer = row.labelled("choices", "answerKey")
    return _ask(f"Question: {row.text('question')}\nAnswer:", texts, answer)


def _build_openbookqa(row: _Row) -> Question:
    texts, answer = row.labelled("choices", "answerKey")
    return _ask(row.text("question_stem"), texts, answer)


_BUILDERS: Mapping[ZeroShotTask, Callable[[_Row], Question]] = {
    ZeroShotTask.BOOLQ: _build_boolq,
    ZeroShotTask.RTE: _build_rte,
    ZeroShotTask.HELLASWAG: _build_hellaswag,
    ZeroShotTask.WINOGRANDE: _build_winogrande,
    ZeroShotTask.ARC_EASY: _build_arc,
    ZeroShotTask.ARC_CHALLENGE: _build_arc,
    ZeroShotTask.OPENBOOKQA: _build_openbookqa,
}
