"""Requests meant to stop the service, sent to its real process, which continues to answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from service.settings import Settings
from tests.integration.service.conftest import build_spec
from tests.integration.service.test_server import serve_in_process

HEALTH_SECONDS = 1.0  # time limit for /healthz, whatever else was sent
TRIES = 3  # whatever stops the service does so for longer than all of them take
JSON = {"Content-Type": "application/json"}
UNTERMINATED = b'"' + b'\\"' * 32_000
COSTLY = {
    "one count": "a{1000000000}",
    "nested counts": "(?:" * 20 + "a" + "{1,1000})" * 20,
    "nested repetitions": "(?:" * 150 + "a" + ")+?" * 150,
    "recursion": "(?R)",
}


@pytest.fixture
def url(settings: Settings) -> Iterator[str]:
    with serve_in_process(settings) as (_, url):
        yield url


def watch_health(url: str, attacks: list[Future[httpx.Response]]) -> None:
    """Poll /healthz until the attacks are over, and at least once."""
    with httpx.Client(base_url=url, timeout=HEALTH_SECONDS) as client:
        is_over = False
        while not is_over:
            is_over = all(attack.done() for attack in attacks)
            assert is_alive(client)
            time.sleep(0.1)


def is_alive(client: httpx.Client) -> bool:
    """Return whether one of three requests to /healthz is answered in time on a busy machine."""
    for _ in range(TRIES):
        with suppress(httpx.TimeoutException):
            return client.get("/healthz").status_code == 200
    return False


def test_an_unterminated_string_is_rejected_unread(url: str) -> None:
    """64 KB without a key once stopped the service for half a minute."""

    def attack(path: str) -> httpx.Response:
        return httpx.post(f"{url}{path}", content=UNTERMINATED, headers=JSON, timeout=60)

    with ThreadPoolExecutor() as pool:
        attacks = [pool.submit(attack, path) for path in ("/x", "/v1/jobs", "/", "/v1/x") * 2]
        watch_health(url, attacks)
    assert [one.result().status_code for one in attacks] == [404, 401, 405, 401] * 2


def test_with_a_key_it_is_rejected_as_invalid_json(url: str, make_key: Callable[..., str]) -> None:
    headers = JSON | {"Authorization": f"Bearer {make_key()}"}
    body = b'"' + b'\\"' * 500_000  # close to the limit on bodies

    def attack() -> httpx.Response:
        return httpx.post(f"{url}/v1/jobs", content=body, headers=headers, timeout=60)

    with ThreadPoolExecutor() as pool:
        attacks = [pool.submit(attack) for _ in range(4)]
        watch_health(url, attacks)
    assert [one.result().status_code for one in attacks] == [422] * 4


def test_costly_patterns_are_rejected(url: str, make_key: Callable[..., str]) -> None:
    """Each of them once exhausted the service's memory or time."""
    headers = {"Authorization": f"Bearer {make_key()}"}
    with httpx.Client(base_url=url, headers=headers, timeout=240) as client:
        spec = build_spec(client)  # type: ignore[arg-type]

        def attack(pattern: str) -> httpx.Response:
            behaviour = {"name": "p", "kind": "phrase", "pattern": pattern}
            prompts = spec["behaviours"][0]["prompts"]
            body = spec | {"behaviours": [behaviour | {"prompts": prompts}]}
            return client.post("/v1/jobs", json=body)

        with ThreadPoolExecutor() as pool:
            attacks = {name: pool.submit(attack, pattern) for name, pattern in COSTLY.items()}
            watch_health(url, list(attacks.values()))
        for name, one in attacks.items():
            assert one.result().status_code == 422, name
            assert one.result().json()["error"]["param"] == "behaviours[0].pattern", name
            assert "takes more than" in one.result().json()["detail"], name
        assert attack("(x").json()["detail"].startswith("behaviours[0].pattern is not a regular")
        assert attack(r"\bas an AI\b").status_code == 201


def test_a_body_that_never_arrives_blocks_nothing(url: str, make_key: Callable[..., str]) -> None:
    """A caller without a key gets its answer before it has sent its body."""
    release = threading.Event()

    def wait() -> Iterator[bytes]:
        yield b"["
        release.wait(60)

    def attack() -> httpx.Response:
        return httpx.post(f"{url}/v1/jobs", content=wait(), headers=JSON, timeout=60)

    with ThreadPoolExecutor() as pool:
        slow = pool.submit(attack)
        watch_health(url, [])
        release.set()
        assert slow.result().status_code == 401
