"""What is wrong with a document that pydantic refused: field, limit and remedy, in plain words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from excise.names import BehaviourKind
from excise.specs import SPECS

LEAST_LIKENESS = 0.75
"""Smallest `difflib` ratio, of 1, at which an unknown field's name is taken for a misspelt one:
`phrase` for `phrases` is 0.92, `prompt` for `prompts` as much. Chosen by hand."""

MAX_COMPLAINTS = 10
"""Largest number of complaints written about one document; more would not be read. Chosen by
hand."""

_MAX_NAME_CHARACTERS = 64
"""A longer name is not compared with those of fields, of which the longest has half as many."""
_JOB_KINDS = frozenset(SPECS)
_BEHAVIOUR_KINDS = frozenset(BehaviourKind)
_CHOICE_ERRORS = frozenset({"literal_error", "enum"})
_UNION_ERRORS = frozenset({"union_tag_invalid", "union_tag_not_found"})
_OBJECT = "must be an object. Send {...}."
_TYPE_MESSAGES: Mapping[str, str] = {
    "int_type": "must be an integer, without quotes.",
    "int_parsing": "must be an integer.",
    "int_from_float": "must be a whole number.",
    "int_parsing_size": "is too large a number. Use a smaller one.",
    "float_type": "must be a number, without quotes.",
    "float_parsing": "must be a number.",
    "finite_number": "must be a finite number. NaN and infinity are not accepted.",
    "bool_parsing": "must be true or false.",
    "string_type": "must be a string.",
    "string_unicode": "must be valid Unicode. Remove half surrogate pairs.",
    "list_type": "must be a list. Send [...].",
    "dict_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "missing": "is required. Add it.",
    "extra_forbidden": "is not a known field. Remove it or check its spelling.",
}


@dataclass(frozen=True)
class Complaint:
    """One broken rule."""

    field: str
    """Such as `behaviours[0].max_new_tokens`; empty for the document as a whole."""
    sentence: str
    """Problem, limit and remedy, as the end of a sentence that begins with the field."""


def complain(error: Mapping[str, Any], models: Iterable[type[BaseModel]] = ()) -> Complaint:
    """Return the complaint that one of pydantic's error details stands for.

    A field that is not known is compared with those of `models`, in case it is misspelt.
    """
    return Complaint(find_field(error), _describe(error, models))


def find_field(error: Mapping[str, Any]) -> str:
    """Return the field that one of pydantic's error details is about."""
    field = _format_field(error["loc"])
    if error["type"] in _UNION_ERRORS:  # pydantic reports a wrong `kind` at the object that has it
        return f"{field}.kind" if field else "kind"
    return field


def describe_complaints(error: ValidationError, model: type[BaseModel]) -> str:
    """Return the first complaints about a document of `model` in one line, and how many follow."""
    details = error.errors(include_url=False)
    found = [complain(detail, [model]) for detail in details[:MAX_COMPLAINTS]]
    said = [f"{one.field or 'the file'} {one.sentence}" for one in found]
    if more := len(details) - len(found):
        said.append(f"Further complaints: {more}.")
    return " ".join(said)


def _format_field(location: Sequence[int | str]) -> str:
    """Return text such as `behaviours[0].max_new_tokens` for pydantic's location of a field."""
    parts = list(location)
    if parts and parts[0] in _JOB_KINDS:
        parts = parts[1:]
    kind = 2 + (parts.index("behaviours") if "behaviours" in parts else len(parts))
    if len(parts) > kind and parts[kind] in _BEHAVIOUR_KINDS:
        del parts[kind]
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        elif "[" not in part:  # skip pydantic's names for keys and for branches of a union
            text += f".{part}" if text else part
    return text


def _describe(error: Mapping[str, Any], models: Iterable[type[BaseModel]]) -> str:
    """Return problem, limit and remedy, as the end of a sentence that begins with the field."""
    kind, context = error["type"], error.get("ctx", {})
    if bound := _describe_bound(kind, context, error.get("input")):
        return bound
    if kind in _CHOICE_ERRORS:
        return f"is not supported. Use one of: {context['expected']}."
    if kind in _UNION_ERRORS:
        is_behaviour = "behaviours" in error["loc"]
        noun = "behaviour" if is_behaviour else "job"
        what = "is required" if kind == "union_tag_not_found" else f"names no kind of {noun}"
        kinds = tuple(BehaviourKind if is_behaviour else SPECS)
        return f"{what}. Supported kinds: {', '.join(kinds)}."
    if kind == "string_pattern_mismatch":
        return f"has characters that are not allowed; it must match {context['pattern']}."
    if kind == "value_error":
        return str(context["error"])
    if kind == "extra_forbidden" and (near := _find_near(str(error["loc"][-1]), models)):
        return f"is not a known field. Did you mean {near}?"
    return _TYPE_MESSAGES.get(kind, "is not valid. See /docs for what is accepted.")


def _find_near(name: str, models: Iterable[type[BaseModel]]) -> str | None:
    """Return the field of the models, at any depth, whose name is most like `name`."""
    if len(name) > _MAX_NAME_CHARACTERS:
        return None
    names = sorted({field for model in models for field in _list_fields(model)} - {name})
    return next(iter(get_close_matches(name, names, n=1, cutoff=LEAST_LIKENESS)), None)


@cache
def _list_fields(model: type[BaseModel]) -> frozenset[str]:
    """Return the names of the model's fields and of all objects' in them."""
    schema = model.model_json_schema()
    parts = [schema, *schema.get("$defs", {}).values()]
    return frozenset(name for part in parts for name in part.get("properties", {}))


def _describe_bound(kind: str, context: Mapping[str, Any], value: object) -> str | None:
    """Return the sentence for a value, text or list that is above or below its limit."""
    shown = f"is {value}" if _is_short_number(value) else "is out of range"
    length = f"has {context.get('actual_length')} {{}}" if context.get("actual_length") else "has"
    match kind:
        case "less_than_equal":
            return f"{shown}; the limit is {context['le']}. Use at most {context['le']}."
        case "less_than":
            return f"{shown}; it must be below {context['lt']}. Use a smaller value."
        case "greater_than_equal":
            return f"{shown}; the least is {context['ge']}. Use at least {context['ge']}."
        case "greater_than":
            return f"{shown}; it must be above {context['gt']}. Use a larger value."
        case "too_long":
            return f"{length.format('entries')}; the limit is {context['max_length']}. Send fewer."
        case "too_short":
            return f"has too few entries; the least is {context['min_length']}. Send more."
        case "string_too_long":
            return f"is too long; the limit is {context['max_length']} characters. Shorten it."
        case "string_too_short":
            return f"is too short; the least is {context['min_length']} characters. Fill it in."
    return None


def _is_short_number(value: object) -> bool:
    """Return whether it is harmless to repeat `value` in a message."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18
