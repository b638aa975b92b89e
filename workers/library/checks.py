"""Checks of a call's arguments, made before any model is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import ValidationError

from excise.behaviours import LocalBehaviour
from excise.plurals import count_noun
from excise.specs import JobSpec
from excise.specs.common import JobSpecBase, PromptSetUse, SpecModel
from excise.specs.correction import CorrectionSpec
from workers.library.inputs import find_task_file
from workers.library.sets import Sets
from workers.stages.context import InvalidInputError

_EXAMPLE = "excise.Repetition(…)"


def list_behaviours(behaviours: Any) -> list[dict[str, Any]]:
    """Return the fields of each behaviour. Raises `TypeError` unless it is a list of behaviours."""
    if isinstance(behaviours, LocalBehaviour | Mapping):
        raise TypeError(f"behaviours is one behaviour; give a list: [{_EXAMPLE}]")
    if isinstance(behaviours, str) or not isinstance(behaviours, Iterable):
        raise TypeError(f"behaviours is a {_name_type(behaviours)}; give a list: [{_EXAMPLE}]")
    return [_find_fields(number, given) for number, given in enumerate(behaviours, start=1)]


def _find_fields(number: int, behaviour: Any) -> dict[str, Any]:
    if isinstance(behaviour, LocalBehaviour):
        return behaviour.fields
    if isinstance(behaviour, Mapping):
        return dict(behaviour)
    raise TypeError(
        f"behaviours: entry {number} is a {_name_type(behaviour)}; give one like {_EXAMPLE}"
    )


def _name_type(value: Any) -> str:
    return type(value).__name__


def check_inputs(spec: JobSpec, sets: Sets) -> None:
    """Raise `InvalidInputError` if a list is too short or a field needs a service."""
    if isinstance(spec, CorrectionSpec) and spec.publish is not None:
        raise InvalidInputError(
            "publish needs a service: nothing is served here. Leave it out, and save the outcome."
        )
    for use in spec.list_prompt_sets():
        _check_length(use, sets)
    for task in spec.list_server_tasks():
        if find_task_file(task.name) is None:
            raise InvalidInputError(
                f"{task.field} has no rows, and $EXCISE_TASK_DATA has no task_{task.name}.jsonl. "
                f"Give the task's rows as a list: {{'name': '{task.name}', 'rows': […]}}."
            )


def note_unknown_settings(error: ValidationError, spec: type[JobSpecBase]) -> None:
    """Add notes to an error about unknown settings: where they belong, or which settings exist."""
    for detail in error.errors(include_url=False, include_context=False, include_input=False):
        if detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1:
            error.add_note(_explain_unknown(str(detail["loc"][0]), spec))


def _explain_unknown(setting: str, spec: type[JobSpecBase]) -> str:
    owners = [
        name
        for name, field in spec.model_fields.items()
        if setting in _list_fields(field.annotation)
    ]
    if owners:
        places = " and of ".join(owners)
        return f"{setting} is a field of {places}: give {owners[0]}={{{setting!r}: …}}."
    return f"There is no {setting}. Settings are: {', '.join(sorted(spec.model_fields))}."


def _list_fields(annotation: Any) -> set[str]:
    """Return the field names of a part of a spec; empty for other types."""
    return {
        name
        for part in (annotation, *get_args(annotation))
        if isinstance(part, type) and issubclass(part, SpecModel)
        for name in part.model_fields
    }


def _check_length(use: PromptSetUse, sets: Sets) -> None:
    count = sets.count(use.prompt_set_id)
    if count < use.least:
        found = count_noun(count, "row" if use.is_rows else "text")
        raise InvalidInputError(f"{use.field} has {found}; the least is {use.least}. Give more.")
