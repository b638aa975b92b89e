"""Slow name servers keep only the tenants waiting who named them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.errors import InvalidRequestError, RateLimitedError, UnavailableError
from service.tenant_lines import MAX_WAITING
from service.webhooks import lookups, operations, sending
from service.webhooks.lookups import UrlChecks

GUARD_SECONDS = 30
DEADLINE_SECONDS = 0.05
SLOW, QUICK = "https://slow.test/", "https://quick.test/"


class Names:
    """A name server that answers for one name only once it is told to."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.asked: list[str] = []

    def check(self, url: str, allowed_hosts: Sequence[str]) -> None:
        self.asked.append(url)
        if url == SLOW:
            assert self.is_open.wait(GUARD_SECONDS)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    made = Names()
    monkeypatch.setattr(operations, "check_url", made.check)
    yield made
    made.is_open.set()


def test_a_slow_name_is_refused_and_occupies_one_thread(names: Names) -> None:
    async def run() -> None:
        checks = UrlChecks(DEADLINE_SECONDS)
        many = [checks.check("slow", SLOW, ()) for _ in range(MAX_WAITING + 1)]
        refused = await asyncio.gather(*many, return_exceptions=True)
        kinds = [InvalidRequestError, *[UnavailableError] * (MAX_WAITING - 1), RateLimitedError]
        assert [type(error) for error in refused] == kinds
        assert "not looked up within 0.05 s" in str(refused[0])
        assert names.asked == [SLOW]
        checks._seconds = GUARD_SECONDS
        await checks.check("quick", QUICK, ())  # while the thread is still occupied
        names.is_open.set()
        await checks.check("slow", QUICK, ())
        assert not checks._begun
        checks.close()

    asyncio.run(run())
    assert names.asked == [SLOW, QUICK, QUICK]


def test_what_the_check_says_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: str, allowed_hosts: Sequence[str]) -> None:
        raise InvalidRequestError(f"{url} {allowed_hosts}")

    monkeypatch.setattr(lookups.operations, "check_url", refuse)
    with pytest.raises(InvalidRequestError, match=r"https://quick.test/ \('a',\)"):
        asyncio.run(UrlChecks(GUARD_SECONDS).check("t", QUICK, ("a",)))


def test_a_delivery_does_not_wait_for_a_slow_name(monkeypatch: pytest.MonkeyPatch) -> None:
    is_open = threading.Event()
    monkeypatch.setattr(sending, "LOOKUP_SECONDS", DEADLINE_SECONDS)
    monkeypatch.setattr(sending, "resolve_endpoint", lambda *_: is_open.wait(GUARD_SECONDS))

    async def run() -> sending.Outcome:
        with ThreadPoolExecutor(1) as threads:
            outcome = await sending.send(SLOW, {}, b"", submit=threads.submit)
            await asyncio.to_thread(int)  # the loop's own threads are free
            is_open.set()
        return outcome

    assert "not looked up within 0.05 s" in str(asyncio.run(run()).error)
