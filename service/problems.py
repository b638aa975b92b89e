"""Errors as `application/problem+json`: RFC 9457 members plus OpenAI's `error` object."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from excise.names import BehaviourKind
from excise.specs import SPECS
from service.errors import (
    ExciseError,
    ForbiddenError,
    InternalError,
    InvalidRequestError,
    MethodNotAllowedError,
    NotFoundError,
    SlowRequestError,
    TooLargeError,
    TooManyBodiesError,
    UnauthorizedError,
    UnavailableError,
)

logger = logging.getLogger(__name__)

PROBLEM_TYPE = "application/problem+json"
TYPE_PREFIX = "https://excise.dev/errors/"
DATABASE_OUTAGES = (OperationalError, InterfaceError, PoolTimeoutError)
_METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
_MAX_PARAM_CHARACTERS = 200
_MAX_MESSAGE_CHARACTERS = 1000
_JOB_KINDS = frozenset(SPECS)
_BEHAVIOUR_KINDS = frozenset(BehaviourKind)
_CHOICE_ERRORS = frozenset({"literal_error", "enum"})
_UNION_ERRORS = frozenset({"union_tag_invalid", "union_tag_not_found"})
_BY_STATUS: Mapping[int, tuple[type[ExciseError], str]] = {
    401: (UnauthorizedError, "The request needs an API key. Send Authorization: Bearer <key>."),
    403: (ForbiddenError, "The API key does not allow this. Use a key with the right scope."),
    404: (NotFoundError, "There is nothing at this path. See /docs for the paths that exist."),
    405: (MethodNotAllowedError, "The path exists but not for this method. See /docs."),
    413: (TooLargeError, "The request body is too large. Send less."),
}
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


def build_problem(error: ExciseError) -> dict[str, Any]:
    """Return the response body that describes `error`."""
    message = _storable(error.message, _MAX_MESSAGE_CHARACTERS)
    param = None if error.param is None else _storable(error.param, _MAX_PARAM_CHARACTERS)
    return {
        "type": f"{TYPE_PREFIX}{error.code}",
        "title": error.title,
        "status": error.status,
        "detail": message,
        "error": {"code": error.code, "message": message, "param": param},
    }


def build_problem_response(error: ExciseError) -> JSONResponse:
    """Return the response for `error`, with the headers that its status requires."""
    headers: dict[str, str] = {}
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, SlowRequestError | TooManyBodiesError):
        headers["Connection"] = "close"  # do not wait for the rest of the body
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = 'Bearer realm="excise"'
    return JSONResponse(build_problem(error), error.status, headers, media_type=PROBLEM_TYPE)


def build_internal_response() -> JSONResponse:
    """Return the response for an unexpected exception, without any details about it."""
    return build_problem_response(
        InternalError("Something went wrong in the service. Try again; the log has the details.")
    )


def build_outage_response(error: Exception) -> JSONResponse:
    """Log `error`, one of `DATABASE_OUTAGES`, and return the response for it."""
    logger.warning("the database does not answer: %s", error)
    return build_problem_response(
        UnavailableError("The database does not answer. Try again in a few seconds.")
    )


def install_error_handlers(app: FastAPI) -> None:
    """Make every error of the application a problem+json response."""
    app.add_exception_handler(ExciseError, _handle_excise_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    for outage in DATABASE_OUTAGES:
        app.add_exception_handler(outage, _handle_outage)


def translate_validation_errors(errors: Sequence[Mapping[str, Any]]) -> InvalidRequestError:
    """Return the error for the first broken rule; one about `kind` goes first, as it decides."""
    first = min(errors, key=lambda error: _find_param(error) != "kind")
    if first["type"] == "json_invalid":  # its place is a number of characters, not a field
        where, why = first["loc"][-1], first.get("ctx", {}).get("error", "it ends too early")
        return InvalidRequestError(
            f"The body is not valid JSON at character {where}: {why}. Correct it.", param="body"
        )
    param = _find_param(first)
    return InvalidRequestError(f"{param or 'body'} {_describe(first)}", param=param or "body")


def _find_param(error: Mapping[str, Any]) -> str:
    """Return the field of an error; pydantic reports a wrong `kind` at the object that has it."""
    param = _format_param(error["loc"])
    if error["type"] not in _UNION_ERRORS:
        return param
    return f"{param}.kind" if param else "kind"


def _handle_excise_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ExciseError)
    if isinstance(error, InternalError):
        logger.error("the request failed", exc_info=error)
    elif error.status >= 500:
        logger.warning("the request failed: %s", error.message)
    return build_problem_response(error)


def _handle_validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return build_problem_response(translate_validation_errors(error.errors()))


def _handle_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if found := _BY_STATUS.get(error.status_code):
        response = build_problem_response(found[0](found[1]))
        response.headers.update(error.headers or {})
        if error.status_code == 405:
            response.headers["Allow"] = ", ".join(_list_methods(request))
        return response
    if error.status_code < 500:
        return build_problem_response(
            InvalidRequestError("The body could not be read. Send valid UTF-8 JSON.", param="body")
        )
    logger.error("the request failed", exc_info=error)
    return build_internal_response()


def _list_methods(request: Request) -> list[str]:
    """Return all methods of the request's path; Starlette gives only those of one route.

    They are taken from the OpenAPI document, because a path that matches one route may be described
    by another, narrower one.
    """
    path = request.url.path.removeprefix(request.scope.get("root_path", ""))
    for template, methods in request.app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{[^}]+\}", "[^/]+", template), path):
            return sorted(method.upper() for method in methods)
    return [
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]


def _handle_outage(_: Request, error: Exception) -> JSONResponse:
    return build_outage_response(error)


def _format_param(location: Sequence[int | str]) -> str:
    """Return text such as `behaviours[0].max_new_tokens` for pydantic's location of a field."""
    parts = list(location[1:] if location and location[0] in _SOURCES else location)
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
    return _storable(text, _MAX_PARAM_CHARACTERS)


_SOURCES = ("body", "query", "path", "header", "cookie")


def _describe(error: Mapping[str, Any]) -> str:
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
    return _TYPE_MESSAGES.get(kind, "is not valid. See /docs for what is accepted.")


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


def _storable(text: str, limit: int) -> str:
    """Return `text` as valid UTF-8 of bounded length."""
    return text[:limit].encode("utf-8", "replace").decode()
