"""The service's errors. Each class carries its HTTP status and code; messages carry a remedy.

ExciseError
├── InvalidRequestError        422 invalid_request
│   └── DoesNotFitError        422 does_not_fit
├── UnauthorizedError          401 unauthorized
├── ForbiddenError             403 forbidden
├── NotFoundError              404 not_found
│   └── ArtifactNotFoundError  404 not_found
├── MethodNotAllowedError      405 invalid_request
├── ConflictError              409 conflict
│   ├── QuotaExceededError     409 quota_exceeded
│   ├── LeaseLostError         409 conflict (workers only; never leaves a request)
│   └── PoolFullError          409 pool_full
├── NotReadyError              409 not_ready
├── SlowRequestError           408 too_slow
├── TooLargeError              413 too_large
├── TooManyOpenJobsError       429 too_many_open_jobs
├── TooManyBodiesError         429 too_many_bodies
├── TooManyStreamsError        429 too_many_streams
├── RateLimitedError           429 rate_limited
├── UnavailableError           503 unavailable
│   └── StoreUnavailableError  503 unavailable
└── InternalError              500 internal
    └── ArtifactCorruptError   500 internal
"""

from __future__ import annotations

from typing import ClassVar


class ExciseError(Exception):
    """An error that can be reported to the caller."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"
    retry_after_seconds: int | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequestError(ExciseError):
    """The request breaks a rule; the message names the field, the limit and the remedy."""

    status = 422
    code = "invalid_request"
    title = "Invalid request"


class DoesNotFitError(InvalidRequestError):
    """The job takes more memory or disk than there is; the message says what would fit."""

    code = "does_not_fit"
    title = "Does not fit"


class UnauthorizedError(ExciseError):
    """The request has no API key, an unknown one, or a revoked one."""

    status = 401
    code = "unauthorized"
    title = "Unauthorized"


class ForbiddenError(ExciseError):
    """The API key is valid but lacks the scope."""

    status = 403
    code = "forbidden"
    title = "Forbidden"


class NotFoundError(ExciseError):
    """Nothing with that name exists for this tenant."""

    status = 404
    code = "not_found"
    title = "Not found"


class ArtifactNotFoundError(NotFoundError):
    """The artifact store holds nothing under this hash."""


class MethodNotAllowedError(ExciseError):
    """The path exists, the method does not."""

    status = 405
    code = "invalid_request"
    title = "Method not allowed"


class ConflictError(ExciseError):
    """The request conflicts with the current state."""

    status = 409
    code = "conflict"
    title = "Conflict"


class QuotaExceededError(ConflictError):
    """The tenant has used up a quota; the message says what to do."""

    code = "quota_exceeded"
    title = "Quota exceeded"


class LeaseLostError(ConflictError):
    """This worker no longer holds the job: stop working on it, another worker may have it."""


class PoolFullError(ConflictError):
    """The serving pool has no free place for another version."""

    code = "pool_full"
    title = "Pool full"


class NotReadyError(ExciseError):
    """The artifact does not exist yet."""

    status = 409
    code = "not_ready"
    title = "Not ready"


class SlowRequestError(ExciseError):
    """The request body did not arrive in time."""

    status = 408
    code = "too_slow"
    title = "Too slow"


class TooLargeError(ExciseError):
    """The request body is over its limit."""

    status = 413
    code = "too_large"
    title = "Too large"


class TooManyOpenJobsError(ExciseError):
    """The API key has the largest allowed number of queued and running jobs."""

    status = 429
    code = "too_many_open_jobs"
    title = "Too many open jobs"
    retry_after_seconds = 30


class TooManyBodiesError(ExciseError):
    """The process is receiving the largest allowed amount of request bodies."""

    status = 429
    code = "too_many_bodies"
    title = "Too many bodies"
    retry_after_seconds = 5


class TooManyStreamsError(ExciseError):
    """The largest allowed number of event streams is open."""

    status = 429
    code = "too_many_streams"
    title = "Too many streams"
    retry_after_seconds = 30


class RateLimitedError(ExciseError):
    """The API key sends too many requests; `retry_after_seconds` says when to try again."""

    status = 429
    code = "rate_limited"
    title = "Rate limited"

    def __init__(self, message: str, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UnavailableError(ExciseError):
    """The database, the broker or a model server does not answer."""

    status = 503
    code = "unavailable"
    title = "Unavailable"
    retry_after_seconds = 5


class StoreUnavailableError(UnavailableError):
    """The artifact store cannot be read or written at present: its disk is full, or it is away."""


class InternalError(ExciseError):
    """A fault of the service itself."""


class ArtifactCorruptError(InternalError):
    """A stored artifact no longer has the hash that it is stored under."""
