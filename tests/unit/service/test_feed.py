"""Event streams in an outage of the database: they wait, and its log has two lines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy.exc import OperationalError

from service.database import Database
from service.jobs import feed as feeds
from service.jobs.feed import Channel, EventFeed, News

FAILURES = 4


class _Away:
    """A database that cannot be reached for a while."""

    def __init__(self) -> None:
        self.failures = 0

    @contextmanager
    def transaction(self) -> Iterator[object]:
        """Yield a session once it is back."""
        self.fail()
        yield object()

    def fail(self) -> None:
        """Raise what a database that is away raises, so many times."""
        self.failures += 1
        if self.failures <= FAILURES:
            raise OperationalError("select", {}, Exception("connection refused"))


@pytest.fixture(autouse=True)
def _never_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "_OUTAGE_PAUSE_SECONDS", 0.0)


@pytest.fixture
def feed() -> EventFeed:
    database: Database = _Away()  # type: ignore[assignment]
    return EventFeed(database, 0.0)


def read_log(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


OUTAGE = [
    "event streams wait for the database: OperationalError",
    f"event streams go on, after {FAILURES} failures",
]


def test_a_stream_that_reads_older_events_tells_the_first_failure_and_the_end(
    feed: EventFeed, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(feeds.repository, "list_events", lambda *_: [])
    caplog.set_level("INFO", feeds.__name__)
    assert asyncio.run(feed._read_page("job", 0, 9)) == []
    assert read_log(caplog) == OUTAGE


@pytest.mark.parametrize("is_outage", [True, False])
def test_so_does_the_look_for_news_whatever_fails(
    feed: EventFeed,
    is_outage: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    away = _Away()
    feed._channels["job"] = Channel("job", 0, 0)

    def look(*_: object) -> News:
        try:
            away.fail()
        except OperationalError:
            if is_outage:
                raise
            raise RuntimeError("a mistake in a query") from None
        feed._channels.clear()
        return News([], {}, False, set())

    monkeypatch.setattr(feed, "_look", look)
    caplog.set_level("INFO", feeds.__name__)
    asyncio.run(feed._look_forever())
    first = OUTAGE[0] if is_outage else "the look for news of watched jobs failed"
    assert read_log(caplog) == [first, OUTAGE[1]]
    assert bool(caplog.records[0].exc_info) is not is_outage
