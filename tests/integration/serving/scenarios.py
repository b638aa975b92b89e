"""Scenarios under load, for a fake vLLM and a real one alike."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import httpx

STREAMS = 16
ALIAS = "tiny@production"
_PATIENCE_SECONDS = 240
_FAST_SECONDS = 10

Prompt = tuple[int, ...]
Speaker = Callable[[Prompt], Sequence[int]]
"""One model's answer to a prompt, token by token."""


class Mortal(Protocol):
    """A model server that can be killed and restarted on the same address."""

    def kill(self) -> None: ...

    def restart(self) -> None: ...


@dataclass(frozen=True)
class Scene:
    """A service with one server and live versions; `ALIAS` points to the first of them."""

    client: httpx.Client
    vllm: Mortal
    versions: Sequence[str]
    speakers: Mapping[str, Speaker]
    """By version id, and by the name of the base."""
    prompts: Sequence[Prompt]
    tokens: int
    """Number of tokens that a request asks for."""
    pause_seconds: float
    """Time for which a client waits when told to come back later."""

    def ask(self, model: str, number: int) -> Answer:
        """Return one streamed answer to one of the prompts."""
        return stream(self.client, model, self.prompts[number % len(self.prompts)], self.tokens)

    def check(self, answers: Sequence[Answer]) -> None:
        """Check that every answer is whole, from one version, and what that version says."""
        for answer in answers:
            assert answer.status == 200, answer
            assert answer.is_whole, answer
            assert answer.models == {answer.version}, answer
            assert answer.version in self.speakers, answer
            says = self.speakers[answer.version]
            assert answer.tokens == list(says(answer.prompt)), answer

    def read_alias(self) -> Any:
        """Return the alias as the service shows it."""
        return self.client.get(f"/v1/aliases/{ALIAS}").json()

    def wait_for(self, version_id: str, *statuses: str) -> dict[str, Any]:
        """Return the version, once it has one of these states."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            version: dict[str, Any] = self.client.get(f"/v1/versions/{version_id}").json()
            if version["status"] in statuses:
                return version
            assert time.monotonic() < deadline, version
            time.sleep(0.02)


@dataclass
class Answer:
    """One streamed answer, as received by a client."""

    prompt: Prompt
    status: int
    began_at: float
    ended_at: float = 0.0
    """Unix time."""
    tokens: list[int] = field(default_factory=list)
    version: str | None = None
    models: set[str] = field(default_factory=set)
    """Model names in the chunks; if there are several, the answer is mixed."""
    is_whole: bool = False
    retry_after: str | None = None
    error: str | None = None
    """The error event that ended the stream."""


def stream(client: httpx.Client, model: str, prompt: Prompt, max_tokens: int) -> Answer:
    """Request one completion as a stream and read it to its end."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        "stream": True,
    }
    began_at = time.time()
    with client.stream("POST", "/v1/completions", json=body, timeout=120) as response:
        answer = Answer(prompt, response.status_code, began_at)
        answer.retry_after = response.headers.get("retry-after")
        answer.version = response.headers.get("x-excise-version")
        for line in response.iter_lines():
            data = line.removeprefix("data: ")
            if not line.startswith("data: "):
                continue
            if data == "[DONE]":
                answer.is_whole = True
                continue
            chunk = json.loads(data)
            if "error" in chunk:
                answer.error = chunk["error"]["message"]
                continue
            answer.models.add(chunk["model"])
            answer.tokens += chunk["choices"][0].get("token_ids") or []
    answer.ended_at = time.time()
    return answer


class Load:
    """`STREAMS` clients that send requests in sequence: `count` in all, or until told to stop."""

    def __init__(self, ask: Callable[[int], Answer], count: int | None = None) -> None:
        self._ask = ask
        self._is_open_ended = count is None
        self._left: Iterator[int] = itertools.count() if count is None else iter(range(count))
        self._is_over = threading.Event()
        self._lock = threading.Lock()
        self.answers: list[Answer] = []

    def run(self, meanwhile: Callable[[Load], None] = lambda _: None) -> list[Answer]:
        """Return every answer; `meanwhile` runs beside the clients, and ends an unlimited load."""
        with ThreadPoolExecutor(STREAMS) as pool:
            working = [pool.submit(self._work) for _ in range(STREAMS)]
            try:
                meanwhile(self)
                if not self._is_open_ended:
                    for future in working:
                        future.result()
            finally:
                self._is_over.set()
        for future in working:
            future.result()
        return self.answers

    def wait_for(self, count: int, is_counted: Callable[[Answer], bool] = lambda _: True) -> None:
        """Return once this many such answers have arrived."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while sum(map(is_counted, list(self.answers))) < count:
            assert time.monotonic() < deadline, f"{len(self.answers)} answers came"
            time.sleep(0.005)

    def _work(self) -> None:
        while not self._is_over.is_set():
            with self._lock:
                number = next(self._left, None)
            if number is None:
                return
            answer = self._ask(number)
            with self._lock:
                self.answers.append(answer)


def switch_and_roll_back(scene: Scene, count: int) -> None:
    """Move the alias continually between two versions: nothing fails, nothing is mixed."""
    first, second = scene.versions[:2]
    step = count // 12

    def switch(load: Load) -> None:
        for done in range(step, count - step, step):
            load.wait_for(done)
            answer = scene.client.post(f"/v1/aliases/{ALIAS}/promote", json={"version": second})
            assert answer.json()["version"] == second
            load.wait_for(done + step // 2)
            back = scene.client.post(f"/v1/aliases/{ALIAS}/rollback")
            assert back.json()["version"] == first

    answers = Load(lambda number: scene.ask(ALIAS, number), count).run(switch)
    assert len(answers) == count
    scene.check(answers)
    shares = Counter(answer.version for answer in answers)
    assert min(shares[first], shares[second]) >= count // 10


def survive_a_kill(scene: Scene) -> None:
    """Nothing hangs or is wrong; traffic returns after the canary and not before."""
    first, second = scene.versions[:2]
    killed_at = []

    def kill(load: Load) -> None:
        load.wait_for(60)
        scene.vllm.kill()
        killed_at.append(time.time())
        load.wait_for(20, lambda answer: answer.status == 503)
        scene.vllm.restart()
        for version_id in scene.versions:
            scene.wait_for(version_id, "live")
        returned_at = time.time()
        load.wait_for(40, lambda answer: answer.status == 200 and answer.began_at > returned_at)

    def ask(number: int) -> Answer:
        answer = scene.ask((ALIAS, second)[number % 2], number)
        if answer.status != 200:
            time.sleep(scene.pause_seconds)
        return answer

    answers = Load(ask).run(kill)
    assert {answer.status for answer in answers} == {200, 503}
    away = [answer for answer in answers if answer.status == 503]
    assert all(int(answer.retry_after or 0) >= 1 for answer in away)
    assert max(answer.ended_at - answer.began_at for answer in away) < _FAST_SECONDS
    scene.check([answer for answer in answers if answer.is_whole])
    cut = [answer for answer in answers if answer.status == 200 and not answer.is_whole]
    assert all(answer.error and "was lost" in answer.error for answer in cut)
    assert len(cut) <= STREAMS  # those that were in progress

    assert scene.read_alias()["version"] == first
    for version_id in (first, second):
        live_at = datetime.fromisoformat(scene.wait_for(version_id, "live")["live_at"]).timestamp()
        later = [a for a in answers if a.version == version_id and a.began_at > killed_at[0]]
        assert live_at > killed_at[0]
        assert min(answer.ended_at for answer in later if answer.is_whole) > live_at
        events = scene.client.get(f"/v1/versions/{version_id}/events").json()["data"]
        assert [event["kind"] for event in events][-2:] == ["unavailable", "canary"]


def answer_together(scene: Scene) -> None:
    """Ask every version and the base every prompt at once: each gives its own answers."""
    models = list(scene.speakers)
    questions = [(model, number) for number in range(len(scene.prompts)) for model in models]
    with ThreadPoolExecutor(len(questions)) as pool:
        answers = list(pool.map(lambda question: scene.ask(*question), questions))
    assert [answer.version for answer in answers] == [model for model, _ in questions]
    scene.check(answers)


def fail_a_canary(scene: Scene, publish_bad: Callable[[], str]) -> None:
    """Publish a version for the alias that fails its canary: nothing changes for anybody."""
    first = scene.versions[0]

    def publish(load: Load) -> None:
        load.wait_for(STREAMS)
        bad = publish_bad()
        version = scene.wait_for(bad, "failed", "live")
        assert version["status"] == "failed"
        assert "Prompt " in version["error"]
        assert scene.read_alias()["version"] == first
        refused = scene.client.post(f"/v1/aliases/{ALIAS}/promote", json={"version": bad})
        assert refused.status_code == 409
        assert scene.ask(bad, 0).status == 404
        events = scene.client.get(f"/v1/versions/{bad}/events").json()["data"]
        assert [event["kind"] for event in events] == ["publish", "build", "canary"]

    answers = Load(lambda number: scene.ask(ALIAS, number)).run(publish)
    scene.check(answers)
    assert {answer.version for answer in answers} == {first}
