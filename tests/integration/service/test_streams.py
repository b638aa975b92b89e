"""Event streams: one query for all of them, limits, slow readers, jobs that are deleted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

import httpx
import pytest
from sqlalchemy import event as sqlalchemy_event

from service.database import Database, fetch_now
from service.errors import TooManyStreamsError
from service.jobs import feed as feeds
from service.jobs.execution import claim_job, finish_job, record_event
from service.jobs.feed import EventFeed, Opening
from service.jobs.operations import cancel_job
from service.jobs.stream_limits import StreamLimits
from service.keys.operations import Identity, authenticate
from service.models import ApiKey, Job, new_id
from service.settings import Settings
from tests.integration.service.conftest import submit
from tests.integration.service.test_server import serve

LONG = 0.05
GUARD_SECONDS = 30


def make_identity(tenant: str, key: str) -> Identity:
    return Identity(tenant, key, frozenset({"submit"}))


def read(content: bytes) -> tuple[str, dict[str, Any]]:
    """Return the type and the data of one message."""
    fields = dict(line.split(": ", 1) for line in content.decode().splitlines() if line)
    return fields["event"], json.loads(fields["data"])


async def collect(events: AsyncIterator[bytes]) -> list[str]:
    return [read(content)[0] async for content in events]


@pytest.fixture
def job_id(client: Any, database: Database) -> str:
    return str(submit(client)["id"])


@pytest.fixture
def key_id(database: Database, job_id: str) -> str:
    """The key that submitted the job."""
    with database.transaction() as session:
        return session.get_one(Job, job_id).api_key_id


def note(database: Database, job_id: str, count: int) -> int:
    """Claim the job and write that many events; return the lease's token."""
    with database.transaction() as session:
        claim = claim_job(session, job_id, "w", 30)
        assert claim
        for index in range(count):
            record_event(session, job_id, claim.token, "note", f"note {index}")
        return claim.token


def test_many_streams_share_one_query(database: Database, job_id: str, key_id: str) -> None:
    """Sixty streams of one job query no more than one does, and all receive everything."""
    looks = 0

    def count(*_: object) -> None:
        nonlocal looks
        looks += 1

    async def watch() -> list[list[str]]:
        feed = EventFeed(database, LONG)
        streams = [
            asyncio.ensure_future(collect(feed.stream(Opening(job_id, 2**40, None), 2**40, key_id)))
            for _ in range(60)
        ]
        await asyncio.sleep(LONG)
        sqlalchemy_event.listen(database.engine, "begin", count)
        await asyncio.sleep(10 * LONG)
        sqlalchemy_event.remove(database.engine, "begin", count)
        token = await asyncio.to_thread(note, database, job_id, 0)
        with database.transaction() as session:
            finish_job(session, job_id, token, "rejected", "no_effect")
        ended = await asyncio.gather(*streams)
        await feed.aclose()
        return ended

    assert asyncio.run(watch()) == [["done"]] * 60
    assert looks <= 11


def test_a_stream_sends_earlier_and_later_events(
    database: Database, job_id: str, key_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events from the database's pages, events still in memory, and a reader slower than both."""
    monkeypatch.setattr(feeds, "_PAGE_SIZE", 7)
    monkeypatch.setattr(feeds, "_RECENT_EVENTS", 5)
    monkeypatch.setattr(feeds, "_MAX_NEW_EVENTS", 3)
    token = note(database, job_id, 20)

    async def watch() -> list[list[str]]:
        feed = EventFeed(database, LONG / 10)
        quick = asyncio.ensure_future(collect(feed.stream(Opening(job_id, 4, None), 0, key_id)))
        slow = feed.stream(Opening(job_id, 4, None), 0, key_id)
        seen = [read(await anext(slow))[0]]
        await asyncio.sleep(2 * LONG)
        with database.transaction() as session:
            for _ in range(20):
                record_event(session, job_id, token, "note", "more")
        await asyncio.sleep(2 * LONG)
        with database.transaction() as session:
            finish_job(session, job_id, token, "rejected", "no_effect")
        seen += await collect(slow)
        both = [await quick, seen]
        await feed.aclose()
        return both

    expected = ["job.queued", "job.started", *["note"] * 40, "job.rejected", "done"]
    assert asyncio.run(watch()) == [expected, expected]


def test_the_feed_sleeps_when_nobody_watches_and_forgets_the_job(
    database: Database, job_id: str, key_id: str
) -> None:
    async def watch() -> None:
        feed = EventFeed(database, LONG / 10)
        async with aclosing(feed.stream(Opening(job_id, 0, None), 0, key_id)) as events:
            assert read(await anext(events))[0] == "job.queued"
            assert feed._channels
        assert not feed._channels
        assert not feed._viewers
        await asyncio.sleep(5 * LONG)
        assert feed._looking is not None
        assert feed._looking.done()
        await feed.aclose()

    asyncio.run(watch())


def test_a_stream_of_a_job_that_vanishes_ends(database: Database, key_id: str) -> None:
    async def watch() -> list[str]:
        feed = EventFeed(database, LONG / 10)
        seen = await collect(feed.stream(Opening(new_id("job"), 0, None), 0, key_id))
        await feed.aclose()
        return seen

    assert asyncio.run(watch()) == []


def end_key(database: Database, key_id: str) -> None:
    with database.transaction() as session:
        session.get_one(ApiKey, key_id).revoked_at = fetch_now(session)


def cancel(database: Database, job_id: str) -> None:
    with database.transaction() as session:
        cancel_job(session, session.get_one(Job, job_id).tenant_id, job_id)


def test_streams_of_a_revoked_key_end_and_say_nothing_more(
    database: Database, job_id: str, key_id: str, make_key: Callable[..., str]
) -> None:
    with database.transaction() as session:
        other = authenticate(session, make_key()).key_id

    async def watch() -> list[list[str]]:
        feed = EventFeed(database, LONG / 10)
        streams = [
            asyncio.ensure_future(collect(feed.stream(Opening(job_id, 0, None), 0, own)))
            for own in (key_id, key_id, other)
        ]
        await asyncio.sleep(2 * LONG)
        await asyncio.to_thread(end_key, database, key_id)
        ended, going_on = await asyncio.wait(streams[:2], timeout=GUARD_SECONDS)
        assert (len(ended), len(going_on), streams[2].done()) == (2, 0, False)
        await asyncio.to_thread(cancel, database, job_id)
        seen = await asyncio.gather(*streams)
        assert feed._viewers == {}
        await feed.aclose()
        return seen

    *mine, theirs = asyncio.run(watch())
    assert "job.cancelled" not in mine[0] + mine[1]
    assert theirs == ["job.queued", "job.cancelled", "done"]


def test_what_happens_between_a_revocation_and_the_next_look_is_not_told(
    database: Database, job_id: str, key_id: str
) -> None:
    async def watch() -> list[str]:
        feed = EventFeed(database, 10 * LONG)
        async with aclosing(feed.stream(Opening(job_id, 0, None), 0, key_id)) as events:
            assert read(await anext(events))[0] == "job.queued"
            await asyncio.to_thread(end_key, database, key_id)
            await asyncio.to_thread(cancel, database, job_id)
            seen = await collect(events)
        await feed.aclose()
        return seen

    assert asyncio.run(watch()) == []


def test_the_stream_of_a_key_that_is_gone_ends(database: Database, job_id: str) -> None:
    async def watch() -> None:
        feed = EventFeed(database, LONG / 10)
        await asyncio.wait_for(
            collect(feed.stream(Opening(job_id, 0, None), 0, new_id("key"))), timeout=GUARD_SECONDS
        )
        await feed.aclose()

    asyncio.run(watch())


def test_limits_apply_per_key_per_tenant_and_in_total() -> None:
    limits = StreamLimits(in_all=4, of_key=2)
    first, second, other = (make_identity(*pair) for pair in (("t", "a"), ("t", "b"), ("u", "c")))
    for identity in (first, first, second):
        limits.take(identity, 3)
    for identity, who in ((first, "tenant"), (second, "This tenant has 3")):
        with pytest.raises(TooManyStreamsError, match=who):
            limits.take(identity, 3)
    limits.take(other, 3)
    with pytest.raises(TooManyStreamsError, match="process"):
        limits.take(other, 3)
    limits.give(other)
    limits.give(second)
    with pytest.raises(TooManyStreamsError, match="API key has 2"):
        limits.take(first, 3)
    limits.take(second, 3)


def test_one_stream_too_many_is_a_429_and_a_closed_one_no_longer_counts(
    settings: Settings, make_key: Callable[..., str], database: Database
) -> None:
    limited = settings.model_copy(update={"max_streams_per_key": 2})
    with serve(limited) as (_, url):
        headers = {"Authorization": f"Bearer {make_key()}"}
        with httpx.Client(base_url=url, headers=headers, timeout=20) as http:
            path = f"/v1/jobs/{submit(http)['id']}/events?stream=true"  # type: ignore[arg-type]
            with http.stream("GET", path) as one, http.stream("GET", path) as two:
                assert [one.status_code, two.status_code] == [200, 200]
                refused = http.get(path)
                assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")
                assert refused.json()["error"]["code"] == "too_many_streams"
                assert "limit" in refused.json()["detail"]
                assert http.get(path.partition("?")[0]).status_code == 200
            for _ in range(100):
                with http.stream("GET", path) as again:
                    if again.status_code == 200:
                        break
            assert again.status_code == 200
