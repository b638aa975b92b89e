"""What must hold under load, for a fake vLLM and a real one alike."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import httpx

STREAMS = 16


@dataclass
class Answer:
    """One streamed answer, as a client saw it."""

    status: int
    text: str = ""
    version: str | None = None
    models: set[str] = field(default_factory=set)
    """What the chunks called the model; one name, or the answer is mixed."""
    is_whole: bool = False
    retry_after: str | None = None
    error: str | None = None
    """The error event that ended the stream."""


def stream(client: httpx.Client, model: str, prompt: object, max_tokens: int) -> Answer:
    """Ask for one completion as a stream and read it to its end."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
    }
    with client.stream("POST", "/v1/completions", json=body, timeout=120) as response:
        answer = Answer(response.status_code, retry_after=response.headers.get("retry-after"))
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
            answer.text += chunk["choices"][0]["text"]
    return answer


class Load:
    """`STREAMS` clients that ask one after another, `count` times in all."""

    def __init__(self, ask: Callable[[int], Answer], count: int) -> None:
        self._ask = ask
        self._count = count
        self._left = iter(range(count))
        self._lock = threading.Lock()
        self.answers: list[Answer] = []

    def run(self, meanwhile: Callable[[Load], None] = lambda _: None) -> list[Answer]:
        """Every answer; `meanwhile` runs beside the clients."""
        with ThreadPoolExecutor(STREAMS + 1) as pool:
            beside = pool.submit(meanwhile, self)
            for future in [pool.submit(self._work) for _ in range(STREAMS)]:
                future.result()
            beside.result()
        return self.answers

    def wait_for(self, count: int) -> None:
        """Return once this many answers have come."""
        pause = threading.Event()
        while len(self.answers) < min(count, self._count):
            pause.wait(0.005)

    def _work(self) -> None:
        while True:
            with self._lock:
                number = next(self._left, None)
            if number is None:
                return
            answer = self._ask(number)
            with self._lock:
                self.answers.append(answer)


def check_unmixed(answers: list[Answer], speakers: dict[str, Callable[[str], bool]]) -> None:
    """Every answer is whole, from one version, and says what that version says."""
    for answer in answers:
        assert answer.status == 200, answer
        assert answer.is_whole, answer
        assert answer.models == {answer.version}, answer
        assert answer.version in speakers, answer
        assert speakers[answer.version](answer.text), answer
