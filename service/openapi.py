"""The OpenAPI document: FastAPI's, plus the actual error responses, links and examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from excise.resources.problems import Problem
from service.errors import (
    ConflictError,
    ExciseError,
    ForbiddenError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    SlowRequestError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
)
from service.openapi_examples import REQUEST_EXAMPLES
from service.openapi_links import add_links
from service.problems import PROBLEM_TYPE, build_problem
from service.serving.aliases import ALIAS

_REF = "#/components/schemas/"
_ERRORS: Mapping[int, tuple[ExciseError, str]] = {
    401: (
        UnauthorizedError("The request has no API key. Send Authorization: Bearer <key>."),
        "No key, an unknown one, or one that was revoked",
    ),
    403: (
        ForbiddenError("The API key lacks the scope 'admin'. Use a key that has it."),
        "The key lacks the scope",
    ),
    404: (NotFoundError("There is no such job. List them with GET /v1/jobs."), "No such thing"),
    408: (
        SlowRequestError("The request body took more than 60 s to arrive. Send less, or faster."),
        "The body did not arrive in time",
    ),
    409: (
        ConflictError("The job has already ended as succeeded; it cannot be cancelled."),
        "The request contradicts what is there",
    ),
    413: (
        TooLargeError("The request body is over the limit of 1048576 bytes (1 MiB). Send less."),
        "The body is too large",
    ),
    422: (
        InvalidRequestError("limit is 1000; the limit is 100. Use at most 100.", param="limit"),
        "The request breaks a rule; the error names the field, the limit and the remedy",
    ),
    429: (
        RateLimitedError("This API key may send 6000 requests a minute. Try again in 2 s.", 2),
        "A limit on requests, jobs, streams or stored things is reached",
    ),
    500: (
        InternalError("Something went wrong in the service. Try again; the log has the details."),
        "A fault of the service",
    ),
    503: (
        UnavailableError("The database does not answer. Try again in a few seconds."),
        "Database, broker or model server are away",
    ),
}
_HEADERS: Mapping[int, Mapping[str, Any]] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}, "required": True}},
    503: {"Retry-After": {"schema": {"type": "integer", "minimum": 0}}},
    429: {"Retry-After": {"schema": {"type": "integer", "minimum": 0}}},
}
_PATTERNS: Mapping[str, str] = {
    "job_id": "^job_[0-9a-f]{24}$",
    "prompt_set_id": "^ps_[0-9a-f]{24}$",
    "key_id": "^key_[0-9a-f]{24}$",
    "webhook_id": "^wh_[0-9a-f]{24}$",
    "delivery_id": "^dlv_[0-9a-f]{24}$",
    "version_id": "^mv_[0-9a-f]{24}$",
    "alias": f"^{ALIAS.pattern}$",
    "name": "^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
}
"""What the parts of paths look like; anything else is a 404 like any other unknown thing."""


def install_openapi(app: FastAPI) -> None:
    """Make the application describe itself with `build_openapi`, computed once."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build_openapi(app)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]  # as FastAPI's documentation does


def build_openapi(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document of the application's routes."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    problem = Problem.model_json_schema(ref_template=_REF + "{model}")
    schemas |= problem.pop("$defs")
    schemas["Problem"] = problem
    operations = {
        operation["operationId"]: operation
        for methods in document["paths"].values()
        for operation in methods.values()
    }
    for name, operation in operations.items():
        _describe_parameters(operation)
        _describe_errors(operation)
        _add_examples(name, operation)
    add_links(operations)
    return document


def _describe_errors(operation: dict[str, Any]) -> None:
    """Add all errors that the call may return: those that its route names, and the usual ones."""
    responses = operation["responses"]
    responses.pop("422", None)
    for status in _list_usual_errors(operation):
        responses.setdefault(str(status), {})
    for status, response in responses.items():
        if int(status) not in _ERRORS or "content" in response:
            continue
        error, description = _ERRORS[int(status)]
        response.setdefault("description", description)
        example = build_problem(error)
        content = {"schema": {"$ref": f"{_REF}Problem"}, "example": example}
        response["content"] = {PROBLEM_TYPE: content}
        if int(status) in _HEADERS:
            response["headers"] = dict(_HEADERS[int(status)])
    operation["responses"] = dict(sorted(responses.items()))


def _describe_parameters(operation: Mapping[str, Any]) -> None:
    """Add patterns of path parameters, and remove null from query and header parameters."""
    for parameter in operation.get("parameters", []):
        schema = parameter["schema"]
        if parameter["in"] == "path" and parameter["name"] in _PATTERNS:
            schema["pattern"] = _PATTERNS[parameter["name"]]
        kinds = [kind for kind in schema.pop("anyOf", []) if kind.get("type") != "null"]
        for kind in kinds:
            schema |= kind


def _list_usual_errors(operation: Mapping[str, Any]) -> Iterable[int]:
    """Yield the statuses of errors that follow from what a call takes."""
    parameters = operation.get("parameters", [])
    if operation.get("security"):
        yield from (401, 403, 500, 503)
        yield from (408, 413)  # any request may have a body; it is read before the route is known
        yield 422
    if any(parameter["in"] == "path" for parameter in parameters):
        yield 404


def _add_examples(name: str, operation: dict[str, Any]) -> None:
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        if examples := REQUEST_EXAMPLES.get((name, media_type)):
            content["examples"] = {title: {"value": value} for title, value in examples.items()}
