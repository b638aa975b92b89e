"""Events of watched jobs: the same few database queries serve all streams of this process."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from sse_starlette import ServerSentEvent

from excise.names import JobStatus
from excise.plurals import count_noun
from service.database import Database
from service.jobs import repository
from service.jobs.views import view_event, view_job
from service.keys.repository import find_valid_keys
from service.models import Event, Job
from service.outages import OutageRecord
from service.problems import DATABASE_OUTAGES

logger = logging.getLogger(__name__)

_PAGE_SIZE = 200  # older events that one query reads for a stream
_MAX_NEW_EVENTS = 2000  # new events of all jobs that one look reads
_RECENT_EVENTS = 256  # events of a job that are kept in memory
_OUTAGE_PAUSE_SECONDS = 2.0
_DATABASE, _LOOK = "database", "look"
_THREADS = 2  # a separate pool, so that streams and other requests do not wait for each other


class Told(NamedTuple):
    """One event in the form in which streams send it."""

    id: int
    content: bytes


@dataclass(frozen=True)
class Opening:
    """The start of a stream: the state of its job."""

    job_id: str
    newest: int
    """Id of the newest event."""
    done: bytes | None
    """The last message, if the job has ended."""


@dataclass
class Channel:
    """Data shared by the streams of one job: the newest events, and its end."""

    job_id: str
    first: int
    """Events with larger ids are in `recent`; others must be read from the database."""
    last: int
    """Id of the newest known event."""
    done: bytes | None = None
    is_over: bool = False
    watchers: int = 0
    recent: deque[Told] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced by a new one, whenever there is news."""

    def add(self, told: Told) -> None:
        """Add a newer event; the oldest one may be dropped."""
        self.recent.append(told)
        self.last = told.id
        if len(self.recent) > _RECENT_EVENTS:
            self.first = self.recent.popleft().id

    def notify(self) -> None:
        """Wake all streams that wait."""
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


@dataclass
class Viewer:
    """The streams of one API key."""

    streams: int = 0
    is_refused: bool = False
    """Whether the key was revoked, or its tenant deleted."""


class News(NamedTuple):
    """The result of one look."""

    told: list[tuple[str, Told]]
    """(job, event), oldest first."""
    over: dict[str, bytes | None]
    """Job that has ended → its last message; None if the job was deleted."""
    is_cut: bool
    """Whether there are more events."""
    refused: set[str]
    """Ids of keys with streams that are no longer valid."""


class EventFeed:
    """Queries news of all watched jobs, while there are any, and passes them to the streams."""

    def __init__(self, database: Database, pause_seconds: float) -> None:
        self._database = database
        self._pause = pause_seconds
        self._channels: dict[str, Channel] = {}
        self._viewers: dict[str, Viewer] = {}
        self._looking: asyncio.Task[None] | None = None
        self._threads = ThreadPoolExecutor(_THREADS, "event-feed")
        self._outages = OutageRecord()

    async def aclose(self) -> None:
        """Stop querying."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        self._threads.shutdown(wait=False)

    async def stream(self, opening: Opening, after: int, key_id: str) -> AsyncIterator[bytes]:
        """Yield every event with an id above `after`, as it happens, then `done` with the job.

        It ends early once the API key is no longer valid. During outages of the database, it waits.
        A slow client delays nobody and keeps nothing in memory: events that it missed are read
        again.
        """
        with self._watch(opening) as channel, self._admit(key_id) as viewer:
            while not viewer.is_refused:
                changed = channel.changed
                if after < (upto := channel.first):
                    page = await self._read_page(channel.job_id, after, upto)
                    after = page[-1].id if len(page) == _PAGE_SIZE else upto
                else:
                    page = [told for told in channel.recent if told.id > after]
                    after = page[-1].id if page else after
                for told in page:
                    if viewer.is_refused:
                        return
                    yield told.content
                if after < channel.last:
                    continue
                if channel.is_over:
                    if channel.done is not None and not viewer.is_refused:
                        yield channel.done
                    return
                await changed.wait()

    @contextmanager
    def _watch(self, opening: Opening) -> Iterator[Channel]:
        """Yield the job's channel, which exists while anybody watches; an ended job's is over."""
        if opening.done is not None:
            yield Channel(opening.job_id, opening.newest, opening.newest, opening.done, True)
            return
        channel = self._channels.get(opening.job_id)
        if channel is None:
            channel = Channel(opening.job_id, opening.newest, opening.newest)
            self._channels[opening.job_id] = channel
        channel.watchers += 1
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self._look_forever())
        try:
            yield channel
        finally:
            channel.watchers -= 1
            if not channel.watchers and self._channels.get(channel.job_id) is channel:
                del self._channels[channel.job_id]

    @contextmanager
    def _admit(self, key_id: str) -> Iterator[Viewer]:
        """Yield the key's viewer; the key is checked for as long as it has streams."""
        viewer = self._viewers.setdefault(key_id, Viewer())
        viewer.streams += 1
        try:
            yield viewer
        finally:
            viewer.streams -= 1
            if not viewer.streams:
                del self._viewers[key_id]

    async def _look_forever(self) -> None:
        """Query repeatedly until nobody watches."""
        loop = asyncio.get_running_loop()
        while self._channels:
            cursors = {job_id: channel.last for job_id, channel in self._channels.items()}
            try:
                news = await loop.run_in_executor(
                    self._threads, self._look, cursors, list(self._viewers)
                )
            except Exception as error:  # noqa: BLE001 - it is logged
                await self._wait_out(error)
                continue
            self._note_success()
            self._tell(news)
            if not news.is_cut:
                await asyncio.sleep(self._pause)

    def _tell(self, news: News) -> None:
        """Add news to the channels and wake the streams concerned."""
        for key_id in news.refused & self._viewers.keys():
            self._viewers[key_id].is_refused = True
        if news.refused:
            for watched in self._channels.values():
                watched.notify()
        for job_id, told in news.told:
            if (channel := self._channels.get(job_id)) is not None and told.id > channel.last:
                channel.add(told)
        for job_id, done in news.over.items():
            if (channel := self._channels.pop(job_id, None)) is not None:
                channel.done, channel.is_over = done, True
                channel.notify()
        for job_id in {job_id for job_id, _ in news.told}:
            if (channel := self._channels.get(job_id)) is not None:
                channel.notify()

    def _look(self, cursors: Mapping[str, int], key_ids: Collection[str]) -> News:
        """Return news since the given events.

        Jobs are read first, so the events of ended ones are complete. Keys are read last, so the
        streams of a key are told nothing that happened after it was revoked.
        """
        with self._database.transaction() as session:
            is_open = repository.find_statuses(session, list(cursors))
            found = repository.list_new_events(session, cursors, _MAX_NEW_EVENTS + 1)
            told = [(event.job_id, _encode(event)) for event in found[:_MAX_NEW_EVENTS]]
            is_cut = len(found) > _MAX_NEW_EVENTS
            ended = [
                job_id
                for job_id in cursors
                if job_id not in is_open or not JobStatus(is_open[job_id]).is_open
            ]
            over: dict[str, bytes | None] = {}
            if ended and not is_cut:
                over = dict.fromkeys(ended)
                over |= {job.id: encode_end(job) for job in repository.load_jobs(session, ended)}
            refused = set(key_ids) - find_valid_keys(session, key_ids)
            return News(told, over, is_cut, refused)

    async def _read_page(self, job_id: str, after: int, upto: int) -> list[Told]:
        """Return older events of a job, waiting through outages of the database."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                page = await loop.run_in_executor(self._threads, self._load, job_id, after, upto)
            except DATABASE_OUTAGES as error:
                await self._wait_out(error)
                continue
            self._note_success()
            return page

    async def _wait_out(self, error: Exception) -> None:
        """Log a failed query, but only the first failure of an outage, and pause."""
        if isinstance(error, DATABASE_OUTAGES):
            if self._outages.note_failure(_DATABASE):
                logger.warning("event streams wait for the database: %s", type(error).__name__)
        elif self._outages.note_failure(_LOOK):
            logger.error("the look for news of watched jobs failed", exc_info=error)
        await asyncio.sleep(max(self._pause, _OUTAGE_PAUSE_SECONDS))

    def _note_success(self) -> None:
        if failures := sum(map(self._outages.note_success, (_DATABASE, _LOOK))):
            logger.info("event streams go on, after %s", count_noun(failures, "failure"))

    def _load(self, job_id: str, after: int, upto: int) -> list[Told]:
        with self._database.transaction() as session:
            found = repository.list_events(session, job_id, after, _PAGE_SIZE, upto)
            return [_encode(event) for event in found]


def encode_end(job: Job) -> bytes:
    """Return the last message of a stream: the job."""
    return ServerSentEvent(view_job(job).model_dump_json(), event="done").encode()


def _encode(event: Event) -> Told:
    content = view_event(event).model_dump_json()
    return Told(event.id, ServerSentEvent(content, event=event.type, id=str(event.id)).encode())
