"""Stage 1 of a circuit job: split the task's rows into three parts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from excise.names import BuiltInTask, CircuitMetric
from excise.specs.circuit import BUILT_IN_TASKS, CIRCUIT_SPLITS, MIN_CIRCUIT_ROWS
from workers.circuits.greater_than import generate_greater_than
from workers.circuits.ioi import generate_ioi
from workers.circuits.tasks import Task, TaskRow, parse_rows
from workers.kinds.circuit.results import PreparedCircuit, Row
from workers.progress import Counter, Progress, count_alike
from workers.stages.context import InvalidInputError, StageContext, StageOutput
from workers.stages.inputs import CircuitInputs

SPARE_FACTOR = 2
"""Number of rows generated per requested row, because some turn out to be duplicates."""


def run(context: StageContext, inputs: CircuitInputs) -> StageOutput:
    """Return the stage's result, a `PreparedCircuit`."""
    return context.run_stage("prepare", _key(inputs), lambda progress: _work(inputs, progress))


def _key(inputs: CircuitInputs) -> dict[str, Any]:
    spec = inputs.spec
    is_built_in = spec.task in BUILT_IN_TASKS
    return {
        "model": inputs.model_sha256,
        "dtype": spec.dtype,
        "task": spec.task if is_built_in else inputs.prompt_set(spec.task).sha256,
        "rows": spec.rows,
        "seed": spec.seed,
    }


def _work(inputs: CircuitInputs, progress: Progress) -> bytes:
    counter = Counter(progress, [count_alike("tasks", 1)])
    task = _build_task(inputs)
    rows = _take_distinct(task.rows, inputs.spec.rows)
    if len(rows) < MIN_CIRCUIT_ROWS:
        raise InvalidInputError(
            f"the task {task.name} has {len(rows)} different rows for this tokeniser, too few for "
            f"{CIRCUIT_SPLITS} parts; the least is {MIN_CIRCUIT_ROWS}. Give more rows."
        )
    size = len(rows) // CIRCUIT_SPLITS
    parts = [
        tuple(map(Row.from_row, rows[start : start + size]))
        for start in range(0, size * CIRCUIT_SPLITS, size)
    ]
    counter(1)
    return PreparedCircuit(
        model_sha256=inputs.model_sha256,
        task=task.name,
        metric=task.metric,
        discovery=parts[0],
        choice=parts[1],
        held_out=parts[2],
    ).to_bytes()


def _build_task(inputs: CircuitInputs) -> Task:
    """Return the task with more rows than needed; uploaded rows are shuffled with the seed."""
    spec, tokenizer = inputs.spec, inputs.base.tokenizer
    if spec.task == BuiltInTask.IOI:
        return generate_ioi(tokenizer, spec.rows * SPARE_FACTOR, spec.seed)
    if spec.task == BuiltInTask.GREATER_THAN:
        return generate_greater_than(tokenizer, spec.rows * SPARE_FACTOR, spec.seed)
    rows = list(parse_rows(inputs.rows(spec.task), tokenizer))
    random.Random(spec.seed).shuffle(rows)  # noqa: S311 - no secret
    return Task(inputs.prompt_set(spec.task).name, CircuitMetric.LOGIT_DIFFERENCE, tuple(rows))


def _take_distinct(rows: Sequence[TaskRow], count: int) -> list[TaskRow]:
    """Return the first `count` rows with distinct prompts, so that no prompt is in two parts."""
    seen: dict[tuple[int, ...], TaskRow] = {}
    for row in rows:
        seen.setdefault(row.clean_ids, row)
    return list(seen.values())[:count]
