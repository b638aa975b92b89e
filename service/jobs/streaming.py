"""A job's events as a server-sent stream, and its files as downloads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import IO

from fastapi.responses import Response, StreamingResponse
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sse_starlette import ServerSentEvent
from starlette.concurrency import run_in_threadpool

from excise.names import JobStatus
from excise.resources.jobs import EventView, JobView
from service.context import AppContext
from service.jobs import operations
from service.jobs.views import is_known_etag, view_event, view_job
from service.models import JobArtifact

logger = logging.getLogger(__name__)

_PAGE_SIZE = 200
_CHUNK_BYTES = 256 * 1024


async def stream_events(
    context: AppContext, tenant_id: str, job_id: str, after: int
) -> AsyncIterator[ServerSentEvent]:
    """Every event with a larger id than `after`, as it comes, then `done` with the job.

    Outages of the database are waited out; the client sees only the keep-alive comments.
    """
    pause = context.settings.stream_poll_seconds
    while True:
        try:
            job, events, has_more = await run_in_threadpool(
                _read_page, context, tenant_id, job_id, after
            )
        except (OperationalError, InterfaceError, PoolTimeoutError) as error:
            logger.warning("event stream waits for the database: %s", type(error).__name__)
            await asyncio.sleep(max(pause, 2.0))
            continue
        for event in events:
            after = event.id
            yield ServerSentEvent(event.model_dump_json(), event=event.type, id=str(event.id))
        if has_more:
            continue
        if not JobStatus(job.status).is_open:
            yield ServerSentEvent(job.model_dump_json(), event="done")
            return
        await asyncio.sleep(pause)


def build_download(
    context: AppContext, artifact: JobArtifact, if_none_match: str | None, *, inline: bool
) -> Response:
    """The artifact's content, its hash already checked; 304 if the client has it.

    Raises `ArtifactNotFoundError` and `ArtifactCorruptError`.
    """
    etag = f'"{artifact.sha256}"'
    headers = {"ETag": etag, "X-Content-SHA256": artifact.sha256}
    if is_known_etag(etag, if_none_match):
        return Response(status_code=304, headers=headers)
    disposition = "inline" if inline else "attachment"
    headers["Content-Disposition"] = f'{disposition}; filename="{artifact.name}"'
    headers["Content-Length"] = str(artifact.bytes)
    if artifact.media_type.startswith("text/html"):
        headers["Content-Security-Policy"] = (
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
        )
    content = stream_artifact(context, artifact.sha256)
    return StreamingResponse(content, media_type=artifact.media_type, headers=headers)


def stream_artifact(context: AppContext, sha256: str) -> Iterator[bytes]:
    """A stored artifact's content in pieces, its hash checked before this returns.

    Raises `ArtifactNotFoundError` and `ArtifactCorruptError`.
    """
    stack = ExitStack()
    return _chunks(stack.enter_context(context.artifacts.open(sha256)), stack)


def _read_page(
    context: AppContext, tenant_id: str, job_id: str, after: int
) -> tuple[JobView, list[EventView], bool]:
    """The job and its next events, in one transaction."""
    with context.database.transaction() as session:
        job, events, has_more = operations.list_events(
            session, tenant_id, job_id, after, _PAGE_SIZE
        )
        return view_job(job), [view_event(event) for event in events], has_more


def _chunks(stream: IO[bytes], stack: ExitStack) -> Iterator[bytes]:
    """The stream's content in pieces; closes it at the end."""
    with stack:
        while chunk := stream.read(_CHUNK_BYTES):
            yield chunk
