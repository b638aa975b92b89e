"""The reference of the REST API, from the OpenAPI document the service describes itself with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pages import Page, build_table, join_blocks, join_lines
from pydantic import SecretStr

from service.app import create_app
from service.settings import Settings

CALLS_PATH = "reference/rest.md"
OBJECTS_LINK = "rest-objects.md"
OBJECTS_PATH = f"reference/{OBJECTS_LINK}"
_REF = "#/components/schemas/"
_FOREIGN = frozenset({"HTTPValidationError", "ValidationError", "JsonValue"})
"""Schemas that FastAPI and pydantic bring; errors are problem+json, whatever these say."""
_LIMITS = {
    "minimum": "≥ {}",
    "maximum": "≤ {}",
    "exclusiveMinimum": "> {}",
    "exclusiveMaximum": "< {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {} entries",
    "maxItems": "at most {} entries",
    "maxProperties": "at most {} pairs",
    "pattern": "like `{}`",
}
_INTRODUCTION = """\
Generated from the OpenAPI document of this release, which a running service gives at
`/openapi.json` and shows at `/docs`. [The guide](../guides/api.md) says what calls are for.

Everything under `/v1` needs `Authorization: Bearer <key>`. Any call may end with an error, which is
`application/problem+json`: see [errors](../guides/api.md#errors)."""


def load_openapi() -> Mapping[str, Any]:
    """The OpenAPI document of a service that is connected to nothing."""
    nowhere = Settings(database_url=SecretStr("postgresql://host/none"), artifacts="/nowhere")
    document: dict[str, Any] = create_app(nowhere).openapi()
    return document


def build_rest_pages(document: Mapping[str, Any]) -> list[Page]:
    """The page of the calls, and that of the objects they take and give."""
    return [_build_calls_page(document), _build_objects_page(document)]


def describe_type(schema: Mapping[str, Any]) -> str:
    """A schema in words, with links to the objects it names."""
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REF)
        return "any JSON value" if name in _FOREIGN else f"[{name}]({OBJECTS_LINK}#{name.lower()})"
    for union in ("oneOf", "anyOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(map(describe_type, schema[union])))
    if "const" in schema:
        return f'`"{schema["const"]}"`'
    if "enum" in schema:
        return " or ".join(f'`"{value}"`' for value in schema["enum"])
    return _describe_plain_type(schema) + _describe_limits(schema)


def _describe_plain_type(schema: Mapping[str, Any]) -> str:
    match schema:
        case {"type": "array", "items": items}:
            return f"list of {describe_type(items)}"
        case {"type": "object", "additionalProperties": dict(values)}:
            return f"object of {describe_type(values)}"
        case {"type": "string", "format": "date-time"}:
            return "time"
        case {"type": str(name)}:
            return name
    return "any JSON value"


def _describe_limits(schema: Mapping[str, Any]) -> str:
    given = {key: schema[key] for key in _LIMITS if key in schema}
    limits = [
        _LIMITS[key].format(f"{limit:,.10g}" if isinstance(limit, float) else limit)
        for key, limit in given.items()
    ]
    return f", {', '.join(limits)}" if limits else ""


def _build_calls_page(document: Mapping[str, Any]) -> Page:
    """Every call, those of one tag together in the order of the application."""
    by_tag: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}
    for method, path, operation in list_operations(document):
        by_tag.setdefault(operation["tags"][0], []).append((method, path, operation))
    blocks = ["# The REST API", _INTRODUCTION]
    for tag, operations in by_tag.items():
        blocks.append(f"## {tag.capitalize()}")
        for method, path, operation in operations:
            blocks += _describe_operation(method, path, operation)
    return Page(CALLS_PATH, "REST API", join_blocks(blocks), tuple(find_undocumented(document)))


def find_undocumented(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield the calls, and parameters of their queries and headers, that nothing is said about."""
    for method, path, operation in list_operations(document):
        if not operation.get("description"):
            yield f"{method} {path}"
        for parameter in operation.get("parameters", []):
            if parameter["in"] != "path" and not parameter.get("description"):
                yield f"{method} {path}: {parameter['name']}"


def list_operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield method, path and description of every call."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def _describe_operation(method: str, path: str, operation: Mapping[str, Any]) -> list[str]:
    parameters = [
        (
            f"`{parameter['name']}`",
            parameter["in"] + (", required" if parameter.get("required") else ""),
            describe_type(parameter["schema"]),
            parameter.get("description", ""),
        )
        for parameter in operation.get("parameters", [])
    ]
    body = operation.get("requestBody", {}).get("content", {})
    return [
        f"### `{method} {path}` {{ #{operation['operationId']} }}",
        join_lines(operation.get("description", "")),
        build_table(("parameter", "where", "type", "meaning"), parameters),
        *(f"Body, `{kind}`: {describe_type(given['schema'])}." for kind, given in body.items()),
        build_table(("answer", "content", "meaning"), list(_describe_answers(operation))),
    ]


def _describe_answers(operation: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield a row for every status but FastAPI's 422, which our errors are not like."""
    for status, answer in operation["responses"].items():
        content = answer.get("content", {})
        kinds = [
            f"`{kind}`: {describe_type(given['schema'])}" if given.get("schema") else f"`{kind}`"
            for kind, given in content.items()
        ]
        if f"{_REF}HTTPValidationError" not in str(content):
            said = answer["description"]
            yield status, "; ".join(kinds), "" if said == "Successful Response" else said


def _build_objects_page(document: Mapping[str, Any]) -> Page:
    """Every object by name, with its fields."""
    schemas = {
        name: schema
        for name, schema in sorted(document["components"]["schemas"].items())
        if name not in _FOREIGN
    }
    blocks = ["# The objects of the REST API", "What [the calls](rest.md) take and give."]
    for name, schema in schemas.items():
        blocks += [
            f"## {name} {{ #{name.lower()} }}",
            join_lines(schema.get("description", "")),
            build_table(("field", "type", "default", "meaning"), list(_describe_fields(schema))),
        ]
    undocumented = tuple(name for name, schema in schemas.items() if not schema.get("description"))
    return Page(OBJECTS_PATH, "REST API: objects", join_blocks(blocks), undocumented)


def _describe_fields(schema: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in required else _describe_default(field)
        yield f"`{name}`", describe_type(field), default, field.get("description", "")


def _describe_default(field: Mapping[str, Any]) -> str:
    """The default as JSON writes it; of objects that they have one."""
    match field.get("default", ...):
        case None:
            return "null"
        case bool(value):
            return str(value).lower()
        case int() | float() | str() as value:
            return f"`{value}`"
        case list([]) | dict([]):
            return "empty"
        case list() | dict():
            return "see there"
    return ""
