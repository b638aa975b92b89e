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

from excise.specs import SPECS
from excise.specs.complaints import complain, find_field
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
_SOURCES = ("body", "query", "path", "header", "cookie")
"""Where a request has its values; pydantic puts this before a field's location."""
_BY_STATUS: Mapping[int, tuple[type[ExciseError], str]] = {
    401: (UnauthorizedError, "The request needs an API key. Send Authorization: Bearer <key>."),
    403: (ForbiddenError, "The API key does not allow this. Use a key with the right scope."),
    404: (NotFoundError, "There is nothing at this path. See /docs for the paths that exist."),
    405: (MethodNotAllowedError, "The path exists but not for this method. See /docs."),
    413: (TooLargeError, "The request body is too large. Send less."),
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
    first = min(errors, key=lambda error: find_field(_drop_source(error)) != "kind")
    if first["type"] == "json_invalid":  # its place is a number of characters, not a field
        where, why = first["loc"][-1], first.get("ctx", {}).get("error", "it ends too early")
        return InvalidRequestError(
            f"The body is not valid JSON at character {where}: {why}. Correct it.", param="body"
        )
    if tuple(first["loc"]) == ("body",) and isinstance(first.get("input"), bytes):
        return InvalidRequestError(
            "The body is not marked as JSON. Send Content-Type: application/json.",
            param="Content-Type",
        )
    complaint = complain(_drop_source(first), SPECS.values())
    field = complaint.field or "body"
    return InvalidRequestError(f"{field} {complaint.sentence}", param=field)


def _drop_source(error: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the error with its location within the value alone."""
    location = error["loc"]
    return {**error, "loc": location[1:]} if location and location[0] in _SOURCES else error


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


def _storable(text: str, limit: int) -> str:
    """Return `text` as valid UTF-8 of bounded length."""
    return text[:limit].encode("utf-8", "replace").decode()
