"""Check that a spec's prompt sets belong to the tenant, suit their fields and are large enough."""

from __future__ import annotations

from sqlalchemy.orm import Session

from excise.names import PromptSetFormat
from excise.plurals import count_noun
from excise.specs import JobSpec
from excise.specs.common import PromptSetUse, ServerTask
from service.errors import InvalidRequestError
from service.jobs import repository
from service.settings import Settings


def check_prompt_sets(session: Session, tenant_id: str, spec: JobSpec, settings: Settings) -> None:
    """Check every prompt set that the spec names. Raises `InvalidRequestError`."""
    for task in spec.list_server_tasks():
        _check_server_task(task, settings)
    for use in spec.list_prompt_sets():
        _check_use(session, tenant_id, use)


def build_missing_error(field: str) -> InvalidRequestError:
    """Return the error for a field that names no prompt set of the tenant's."""
    return InvalidRequestError(
        f"{field} names no prompt set. Upload one with POST /v1/prompt-sets and use its id.",
        param=field,
    )


def _check_use(session: Session, tenant_id: str, use: PromptSetUse) -> None:
    """Raise `InvalidRequestError` if the set does not exist or does not suit this field."""
    found = repository.find_prompt_set_size(session, tenant_id, use.prompt_set_id)
    if found is None:
        raise build_missing_error(use.field)
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
        given = count_noun(count, "row" if use.is_rows else "prompt")
        raise InvalidRequestError(
            f"{use.field} has {given}; the least is {use.least}. Upload a larger set.",
            param=use.field,
        )


def _check_server_task(task: ServerTask, settings: Settings) -> None:
    """Raise `InvalidRequestError` if this server has no rows for the task."""
    if settings.find_task_file(task.name) is None:
        raise InvalidRequestError(
            f"{task.field}.rows is missing, and this server has no rows of {task.name}. "
            "Upload them with POST /v1/prompt-sets?format=rows.",
            param=f"{task.field}.rows",
        )
