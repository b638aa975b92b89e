"""Errors between the client and the service.

ClientError
├── ApiError             the service refused: code, message, param, status
├── ConnectionLostError  the service does not answer
└── DownloadError        a file differs from what the job lists
"""

from __future__ import annotations

import httpx

from excise.errors import UserError

_MAX_MESSAGE_CHARACTERS = 500


class ClientError(UserError):
    """The client could not get its answer."""


class ApiError(ClientError):
    """The service answered with an error."""

    def __init__(self, code: str, message: str, param: str | None, status: int) -> None:
        super().__init__(message, param=param)
        self.code = code
        self.status = status


class ConnectionLostError(ClientError):
    """The service does not answer or has stopped answering."""


class DownloadError(ClientError):
    """A file did not arrive as the job lists it; nothing was saved."""


def build_api_error(response: httpx.Response) -> ApiError:
    """Return the error in a problem+json answer; other answers are described by their status."""
    try:
        body = response.json()
        error = body["error"]
        code, message, param = str(error["code"]), str(error["message"]), error.get("param")
    except (ValueError, KeyError, TypeError, AttributeError):
        code, param = "unknown", None
        text = " ".join(response.text.split())[:_MAX_MESSAGE_CHARACTERS]
        reason = response.reason_phrase or "no reason given"
        message = f"The service answered {response.status_code} ({reason}){': ' * bool(text)}{text}"
    return ApiError(code, message, str(param) if param else None, response.status_code)


def check_open(http: httpx.Client | httpx.AsyncClient) -> None:
    """Raise `ConnectionLostError` if the client was closed, perhaps by another thread."""
    if http.is_closed:
        raise ConnectionLostError("The client was closed while it waited for events.")
