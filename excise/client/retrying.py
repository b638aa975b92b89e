"""Decisions on repeating requests; nothing here sends or waits."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

import httpx

from excise.client.errors import ClientError, ConnectionLostError, build_api_error

_RETRIED_STATUSES = frozenset({502, 503, 504})
_FIRST_PAUSE_SECONDS = 0.3
_MAX_PAUSE_SECONDS = 5.0
_MAX_ASKED_SECONDS = 10.0
"""Longest pause made at the service's request (Retry-After). Chosen by hand."""


@dataclass(frozen=True)
class Failure:
    """Why an attempt got no answer."""

    error: ClientError
    """The error to raise if no further attempt is made."""
    may_pass: bool
    """Whether another attempt may succeed."""
    wait_seconds: float = 0.0
    """The pause that the service asks for, in seconds."""


class Retries:
    """Growing pauses between attempts, until the total time is used up."""

    def __init__(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds
        self._pause = _FIRST_PAUSE_SECONDS

    def find_pause(self, failure: Failure, *, is_repeatable: bool = True) -> float:
        """Return the seconds to wait before the next attempt; raises the error if none is left."""
        left = self._deadline - time.monotonic()
        if not failure.may_pass or not is_repeatable or left <= 0:
            raise failure.error
        jittered = self._pause * random.uniform(0.7, 1.3)  # noqa: S311 - no secret
        self._pause = min(self._pause * 2, _MAX_PAUSE_SECONDS)
        return min(max(jittered, failure.wait_seconds), left)


def find_failure(response: httpx.Response) -> Failure | None:
    """Return the failure in an answer whose body was read; None if it succeeded."""
    if response.is_success:
        return None
    may_pass = response.status_code in _RETRIED_STATUSES
    return Failure(build_api_error(response), may_pass, _read_retry_after(response))


def describe_loss(url: str, problem: Exception | str) -> Failure:
    """Return the failure for a missing or incomplete answer."""
    if isinstance(problem, httpx.UnsupportedProtocol):
        message = f"{url} is not an http:// or https:// URL. Set EXCISE_URL or --url."
        return Failure(ClientError(message), may_pass=False)
    if isinstance(problem, httpx.TimeoutException):
        problem = "timed out"
    message = (
        f"No answer from {url}: {str(problem) or type(problem).__name__}. Is the service running "
        "there (on your own machine: excise up)? Its address is taken from --url or EXCISE_URL."
    )
    return Failure(ConnectionLostError(message), may_pass=True)


def find_stream_failure(url: str, response: httpx.Response) -> Failure:
    """Return why a stream of events ended before the job did."""
    failure = find_failure(response)
    if failure is None:
        return describe_loss(url, "the stream ended early")
    return describe_loss(url, failure.error.message) if failure.may_pass else failure


def _read_retry_after(response: httpx.Response) -> float:
    """Return the seconds that the service asks to wait, limited to `_MAX_ASKED_SECONDS`."""
    value = response.headers.get("Retry-After", "")
    return min(float(value), _MAX_ASKED_SECONDS) if value.isdecimal() else 0.0
