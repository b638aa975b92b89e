"""Whether the prompt sets a spec names are the tenant's, of the right format and large enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from excise.names import PromptSetFormat
from excise.specs import CircuitSpec, CompressionSpec, CorrectionSpec, JobSpec
from excise.specs.circuit import BUILT_IN_TASKS, MIN_CIRCUIT_ROWS
from excise.specs.compression import MIN_TASK_ROWS, ZeroShotSpec
from excise.specs.correction import MIN_REFERENCE_TEXTS, MIN_UNDESIRED_PROMPTS
from excise.specs.gates import GatesSpec, PromptGateSpec
from service.errors import InvalidRequestError
from service.jobs import repository
from service.settings import Settings

MIN_GATE_PROMPTS = 2


@dataclass(frozen=True)
class _Use:
    """One prompt set a spec names."""

    field: str
    prompt_set_id: str
    least: int
    is_rows: bool = False


def check_prompt_sets(session: Session, tenant_id: str, spec: JobSpec, settings: Settings) -> None:
    """Check every prompt set the spec names. Raises `InvalidRequestError`."""
    if isinstance(spec, CompressionSpec):
        _check_task_data("tasks", spec.tasks, settings)
    if isinstance(spec, CorrectionSpec):
        _check_task_data("gates.zero_shot", spec.gates.zero_shot, settings)
    for use in _list_uses(spec):
        _check_use(session, tenant_id, use)


def _list_uses(spec: JobSpec) -> Iterator[_Use]:
    """The prompt sets the spec names, by field."""
    if isinstance(spec, CorrectionSpec):
        for index, behaviour in enumerate(spec.behaviours):
            field = f"behaviours[{index}].prompts"
            yield _Use(field, behaviour.prompts, MIN_UNDESIRED_PROMPTS)
        yield _Use("reference", spec.reference, MIN_REFERENCE_TEXTS)
        yield from _list_gate_uses(spec.gates)
    if isinstance(spec, CircuitSpec):
        if spec.task not in BUILT_IN_TASKS:
            yield _Use("task", spec.task, MIN_CIRCUIT_ROWS, is_rows=True)
        return
    if spec.perplexity is not None:
        yield _Use("perplexity.prompts", spec.perplexity.prompts, 1)
    if isinstance(spec, CompressionSpec):
        yield _Use("calibration.prompts", spec.calibration.prompts, 1)
        for index, task in enumerate(spec.tasks):
            if task.rows is not None:
                yield _Use(f"tasks[{index}].rows", task.rows, MIN_TASK_ROWS, is_rows=True)


def _list_gate_uses(gates: GatesSpec) -> Iterator[_Use]:
    """The prompt sets that gates name."""
    for name in GatesSpec.model_fields:
        if isinstance(asked := getattr(gates, name), PromptGateSpec):
            yield _Use(f"gates.{name}.prompts", asked.prompts, MIN_GATE_PROMPTS)
    for index, task in enumerate(gates.zero_shot):
        if task.rows is not None:
            yield _Use(f"gates.zero_shot[{index}].rows", task.rows, MIN_TASK_ROWS, is_rows=True)


def _check_use(session: Session, tenant_id: str, use: _Use) -> None:
    """Raise `InvalidRequestError` if there is no such set, or not one for this field."""
    found = repository.find_prompt_set_size(session, tenant_id, use.prompt_set_id)
    if found is None:
        raise InvalidRequestError(
            f"{use.field} names no prompt set. Upload one with POST /v1/prompt-sets and use its "
            "id.",
            param=use.field,
        )
    count, kind = found
    if use.is_rows and kind != PromptSetFormat.ROWS:
        raise InvalidRequestError(
            f"{use.field} is a set of prompts where rows are needed. Upload the file with "
            "POST /v1/prompt-sets?format=rows.",
            param=use.field,
        )
    if kind == PromptSetFormat.ROWS and not use.is_rows:
        raise InvalidRequestError(
            f"{use.field} is a set of rows where prompts are needed. Upload the file without "
            "format=rows.",
            param=use.field,
        )
    if count < use.least:
        noun = "rows" if use.is_rows else "prompts"
        raise InvalidRequestError(
            f"{use.field} has {count} {noun}; the least is {use.least}. Upload a larger set.",
            param=use.field,
        )


def _check_task_data(field: str, tasks: Sequence[ZeroShotSpec], settings: Settings) -> None:
    """Raise `InvalidRequestError` for a task that has neither rows nor a file on the server."""
    for index, task in enumerate(tasks):
        if task.rows is None and settings.find_task_file(task.name) is None:
            raise InvalidRequestError(
                f"{field}[{index}].rows is missing, and this server has no rows of {task.name}. "
                "Upload them with POST /v1/prompt-sets?format=rows.",
                param=f"{field}[{index}].rows",
            )
