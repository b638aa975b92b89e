"""A job's events as a stream of server-sent events, and its files as downloads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import IO

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi.responses import Response, StreamingResponse
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from excise.names import JobStatus
from service.context import AppContext
from service.jobs import operations, repository
from service.jobs.feed import Opening, encode_end
from service.jobs.views import is_known_etag
from service.keys.operations import Identity
from service.models import JobArtifact
from service.tenants.operations import load_quotas

_KEEP_ALIVE_SECONDS = 15
_SEND_SECONDS = 60.0
"""A client that reads nothing for this many seconds is disconnected. Chosen by hand."""
_CHUNK_BYTES = 256 * 1024


class EventStream(EventSourceResponse):
    """A stream of a job's events; once it ends, in whatever way, it no longer counts as open."""

    def __init__(self, content: AsyncIterator[bytes], release: Callable[[], None]) -> None:
        super().__init__(content, ping=_KEEP_ALIVE_SECONDS, sep="\r\n", send_timeout=_SEND_SECONDS)
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._release()


def open_stream(context: AppContext, reader: Identity, job_id: str, after: int) -> EventStream:
    """Return the stream of a job's events after id `after`.

    Raises `NotFoundError` and `TooManyStreamsError`.
    """
    with context.database.transaction() as session:
        job = operations.get_job(session, reader.tenant_id, job_id)
        newest = repository.find_newest_event(session, job.id)
        done = None if JobStatus(job.status).is_open else encode_end(job)
        quotas = load_quotas(session, reader.tenant_id, context.settings.quotas)
    context.stream_limits.take(reader, quotas.streams)
    events = context.feed.stream(Opening(job_id, newest, done), after, reader.key_id)
    return EventStream(events, partial(context.stream_limits.give, reader))


def build_download(
    context: AppContext, artifact: JobArtifact, if_none_match: str | None, *, inline: bool
) -> Response:
    """Return the response with the artifact's content, or a 304 if the client has it."""
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
    return Download(context, artifact.sha256, artifact.media_type, headers)


class Download(StreamingResponse):
    """Streams an artifact from its store in chunks, after its hash was checked.

    Downloads have their own threads, so that no other request waits while one is hashed or read. A
    stalled download holds only an open file. Raises `ArtifactNotFoundError` and
    `ArtifactCorruptError` before anything is sent.
    """

    def __init__(
        self, context: AppContext, sha256: str, media_type: str, headers: Mapping[str, str]
    ) -> None:
        super().__init__(_nothing(), media_type=media_type, headers=headers)
        self._context = context
        self._sha256 = sha256

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the content."""
        threads = self._context.download_threads
        with ExitStack() as stack:
            opening = self._context.artifacts.open(self._sha256)
            source = await run_sync(stack.enter_context, opening, limiter=threads)
            self.body_iterator = _read_chunks(source, threads)
            await super().__call__(scope, receive, send)


async def _nothing() -> AsyncIterator[bytes]:
    """Return an empty stream, the body of a download until it is served."""
    return
    yield b""


async def _read_chunks(source: IO[bytes], threads: CapacityLimiter) -> AsyncIterator[bytes]:
    """Yield the stream's content in chunks."""
    while chunk := await run_sync(source.read, _CHUNK_BYTES, limiter=threads):
        yield chunk
