"""What a compression measures: perplexity of the corpus and accuracy on the zero-shot tasks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from excise.names import ZeroShotTask
from excise.reports.compression import TaskScore
from excise.specs.compression import MIN_TASK_ROWS, ZeroShotSpec
from workers.domain import TokenSequence
from workers.kinds.compression.results import Measured
from workers.measuring.measurement import count_choices
from workers.measuring.text_damage import compute_perplexity
from workers.measuring.zero_shot import measure_accuracy
from workers.measuring.zero_shot_tasks import (
    MalformedRowError,
    Question,
    parse_questions,
    sample_questions,
)
from workers.models.encoding import encode_text
from workers.progress import Advance, Part, read_texts
from workers.stages.context import InvalidInputError
from workers.stages.inputs import CompressionInputs


def load_questions(inputs: CompressionInputs) -> dict[str, tuple[Question, ...]]:
    """Return task → its questions, up to the requested number. Raises `InvalidInputError`."""
    return {task.name: _load(inputs, task) for task in inputs.spec.tasks}


def list_parts(
    corpus: Sequence[Sequence[int]], questions: dict[str, tuple[Question, ...]]
) -> list[Part]:
    """Return the work that `measure` does, as progress counts it."""
    windows = read_texts("texts", map(len, corpus), step="perplexity")
    return [windows, *(count_choices(asked, name) for name, asked in questions.items())]


def measure(
    inputs: CompressionInputs,
    corpus: Sequence[tuple[int, ...]],
    questions: dict[str, tuple[Question, ...]],
    advance: Advance,
) -> Measured:
    """Measure the model in its current state; `advance` counts `list_parts`."""
    windows = [TokenSequence(ids) for ids in corpus]
    perplexity = compute_perplexity(inputs.base, windows, on_batch=advance)
    tasks = {}
    for name, asked in questions.items():
        found = measure_accuracy(
            inputs.base,
            partial(encode_text, inputs.base.tokenizer),
            ZeroShotTask(name),
            asked,
            on_batch=advance,
        )
        tasks[name] = TaskScore(
            questions=found.questions,
            accuracy=found.accuracy,
            accuracy_error=found.accuracy_error,
            normalised_accuracy=found.normalised_accuracy,
            normalised_accuracy_error=found.normalised_accuracy_error,
        )
    return Measured(perplexity=perplexity.value, tokens=perplexity.tokens, tasks=tasks)


def _load(inputs: CompressionInputs, task: ZeroShotSpec) -> tuple[Question, ...]:
    lines, source = inputs.task_rows(task)
    try:
        questions = parse_questions(lines, ZeroShotTask(task.name), source)
    except MalformedRowError as error:
        raise InvalidInputError(str(error)) from error
    if len(questions) < MIN_TASK_ROWS:
        raise InvalidInputError(f"{source} has fewer than {MIN_TASK_ROWS} questions. Give more.")
    return sample_questions(questions, task.limit, inputs.spec.seed)
