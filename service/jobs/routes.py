"""`/v1/jobs`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from excise.names import JobFile, ReportFormat
from excise.resources.jobs import EventList, JobList, JobView
from service.context import AppContext, Context
from service.errors import InvalidRequestError
from service.jobs import operations
from service.jobs.pattern_checks import CheckedSpec
from service.jobs.streaming import build_download, open_stream
from service.jobs.views import compute_etag, is_known_etag, summarise_job, view_event, view_job
from service.keys.authentication import Reader, Submitter
from service.keys.operations import Identity
from service.paging import Paging
from service.parameters import IN_DIGITS, IN_WORDS, IdempotencyKeyHeader, IfNoneMatch
from service.strict_bodies import StrictJsonRoute

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=StrictJsonRoute)

MAX_EVENT_ID = 9 * 10**18
"""Slightly below the largest 64-bit integer, and exact as a double, as JSON numbers may be."""
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "The client has it already"}}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_NOT_YET: dict[int | str, dict[str, Any]] = {
    409: {"description": "The job has not produced it yet"}
}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file",
        "content": {
            "application/json": {"schema": {}},
            "text/markdown": _BINARY,
            "text/html": _BINARY,
            "application/octet-stream": _BINARY,
        },
    },
    **_NOT_MODIFIED,
    **_NOT_YET,
}
_IN_THE_WAY: dict[int | str, dict[str, Any]] = {
    409: {"description": "The job has not ended, or was published"}
}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A page of events, or a stream of them",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    },
    429: {"description": "Too many streams are open"},
}


@router.post(
    "",
    status_code=201,
    responses={
        200: {
            "model": JobView,
            "description": "The job that an earlier request with this key made",
        },
        409: {"description": "The `Idempotency-Key` was used with another body"},
        429: {"description": "The limit on open jobs, or on patterns that wait, is reached"},
    },
)
def submit_job(
    spec: CheckedSpec,
    context: Context,
    submitter: Submitter,
    response: Response,
    idempotency_key: IdempotencyKeyHeader = None,
) -> JobView:
    """Submit a job."""
    with context.database.transaction() as session:
        job, is_new = operations.submit_job(
            session, submitter, spec, context.settings, idempotency_key
        )
        response.status_code = 201 if is_new else 200
        response.headers["Location"] = f"/v1/jobs/{job.id}"
        return view_job(job)


@router.get("", response_model=JobList, responses={404: {"description": "No such `after`"}})
def list_jobs(context: Context, reader: Reader, page_request: Paging) -> Response:
    """List one page of the tenant's jobs, newest first."""
    after, limit = page_request.after, page_request.limit
    with context.database.transaction() as session:
        page, has_more = operations.list_jobs(session, reader.tenant_id, after, limit)
    found = JobList(data=[summarise_job(row) for row in page], has_more=has_more)
    # serialised here, not a second time by FastAPI
    return Response(found.model_dump_json(), media_type="application/json")


@router.get("/{job_id}", response_model=JobView, responses=_NOT_MODIFIED)
def get_job(
    job_id: str, context: Context, reader: Reader, if_none_match: IfNoneMatch = None
) -> Response:
    """Get one job, with an ETag."""
    with context.database.transaction() as session:
        body = view_job(operations.get_job(session, reader.tenant_id, job_id)).model_dump_json()
    headers = {"ETag": compute_etag(body)}
    if is_known_etag(headers["ETag"], if_none_match):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


@router.post("/{job_id}/cancel", responses={409: {"description": "The job has ended"}})
def cancel_job(job_id: str, context: Context, submitter: Submitter) -> JobView:
    """Cancel a queued job, or ask a running one to stop."""
    with context.database.transaction() as session:
        return view_job(operations.cancel_job(session, submitter.tenant_id, job_id))


@router.delete("/{job_id}", status_code=204, response_class=Response, responses=_IN_THE_WAY)
def delete_job(job_id: str, context: Context, submitter: Submitter) -> None:
    """Delete a job that has ended and was never published, with its files."""
    operations.delete_job(context.database, context.artifacts, submitter.tenant_id, job_id)


@router.delete(
    "/{job_id}/artifacts", status_code=204, response_class=Response, responses=_IN_THE_WAY
)
def delete_artifacts(job_id: str, context: Context, submitter: Submitter) -> None:
    """Delete the files of a job that has ended; versions published from it stay."""
    operations.delete_artifacts(context.database, context.artifacts, submitter.tenant_id, job_id)


@router.get("/{job_id}/events", response_model=EventList, responses=_EVENTS)
def get_events(
    request: Request,
    job_id: str,
    context: Context,
    reader: Reader,
    after: Annotated[
        int,
        Query(ge=0, le=MAX_EVENT_ID, description="Id of the last known event"),
        IN_DIGITS,
    ] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="How many to list"), IN_DIGITS] = 100,
    stream: Annotated[
        bool,
        Query(description="Server-sent events until the job ends, instead of a page"),
        IN_WORDS,
    ] = False,
    last_event_id: Annotated[
        str | None,
        Header(
            alias="Last-Event-ID",
            description="Where to resume a stream, as browsers send it",
            json_schema_extra={"pattern": "^[0-9]{1,18}$"},
        ),
    ] = None,
) -> Response | EventList:
    """Get a job's events, oldest first: a page, or a stream that resumes where it ended."""
    if stream or "text/event-stream" in request.headers.get("accept", ""):
        start = after if last_event_id is None else _parse_event_id(last_event_id)
        return open_stream(context, reader, job_id, start)
    with context.database.transaction() as session:
        _, page, has_more = operations.list_events(session, reader.tenant_id, job_id, after, limit)
        return EventList(data=[view_event(event) for event in page], has_more=has_more)


@router.get("/{job_id}/report", response_class=Response, responses=_FILE)
def get_report(
    job_id: str,
    context: Context,
    reader: Reader,
    format: Annotated[  # noqa: A002 - the API's name
        ReportFormat, Query(description="As data, Markdown or a page")
    ] = ReportFormat.JSON,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Get the job's report."""
    return _download(context, reader, job_id, f"report.{format}", if_none_match, inline=True)


@router.get("/{job_id}/patch", response_class=Response, responses=_FILE)
def get_patch(
    job_id: str, context: Context, reader: Reader, if_none_match: IfNoneMatch = None
) -> Response:
    """Get the job's patch."""
    return _download(context, reader, job_id, JobFile.PATCH, if_none_match)


@router.get("/{job_id}/artifacts/{name}", response_class=Response, responses=_FILE)
def get_artifact(
    job_id: str, name: str, context: Context, reader: Reader, if_none_match: IfNoneMatch = None
) -> Response:
    """Get any file that the job lists."""
    return _download(context, reader, job_id, name, if_none_match)


def _parse_event_id(text: str) -> int:
    """Return the event id in a `Last-Event-ID` header. Raises `InvalidRequestError`."""
    if text.isascii() and text.isdecimal() and len(text) <= 19 and int(text) <= MAX_EVENT_ID:
        return int(text)
    raise InvalidRequestError(
        "Last-Event-ID is not an event id. Send the id of the last event you received.",
        param="Last-Event-ID",
    )


def _download(
    context: AppContext,
    reader: Identity,
    job_id: str,
    name: str,
    if_none_match: str | None,
    *,
    inline: bool = False,
) -> Response:
    """Return one of the job's files as a response."""
    with context.database.transaction() as session:
        artifact = operations.get_artifact(session, reader.tenant_id, job_id, name)
    return build_download(context, artifact, if_none_match, inline=inline)
