"""A small real HTTP server that speaks as much vLLM as we use, with faults to switch on.

What a model says is a hash of its weights and the prompt, so every answer tells who gave it.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from service.serving.spare_slot import SPARE_NAME

BASE_KEY = "base-weights"
VOCABULARY = 1000


def compute_tokens(weights: str, prompt: object, count: int) -> list[int]:
    """What a model with these weights says to a prompt."""
    tokens = []
    for position in range(count):
        seed = f"{weights}|{json.dumps(prompt)}|{position}".encode()
        tokens.append(int.from_bytes(hashlib.sha256(seed).digest()[:4]) % VOCABULARY)
    return tokens


def build_words(weights: str, count: int) -> list[str]:
    """The same as text: every word names the weights it comes from."""
    return [f"{hashlib.sha256(weights.encode()).hexdigest()[:8]}-{n} " for n in range(count)]


def find_speakers(text: str) -> set[str]:
    """Whose words a text is made of."""
    return {word.rpartition("-")[0] for word in text.split()}


def find_speaker(weights: str) -> str:
    """What `find_speakers` finds in a text of a model with these weights."""
    return hashlib.sha256(weights.encode()).hexdigest()[:8]


@dataclass
class Seen:
    """One request that reached the server."""

    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class FakeVllm:
    """The server's state and its faults. Change it from any thread."""

    base_name: str = "base"
    base_weights: str = BASE_KEY
    api_key: str | None = None
    version: str = "0.32.0"
    adapters: dict[str, str] = field(default_factory=dict)
    """Weights by the name they were loaded under."""
    spares: set[str] = field(default_factory=set)
    """Adapters of zeros, which keep slots; tests look at the others."""
    seen: list[Seen] = field(default_factory=list)
    token_seconds: float = 0.0
    queue_seconds: float = 0.0
    """How long a stream waits before it begins."""
    is_well: bool = True
    says_wrong_tokens: bool = False
    leaks: bool = False
    """Base requests that are open together with an adapter's get the adapter's answer."""
    breaks_after: int | None = None
    """Streams are cut after this many tokens, once a switch."""
    open_adapters: int = 0
    abandoned: int = 0
    """Requests whose client went away before their answer was complete."""

    def lose_adapters(self) -> None:
        """As a restart does."""
        self.adapters.clear()
        self.spares.clear()

    def build_app(self) -> Starlette:
        """The application."""
        post = ["POST"]
        return Starlette(
            routes=[
                Route("/version", self._version),
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/load_lora_adapter", self._load, methods=post),
                Route("/v1/unload_lora_adapter", self._unload, methods=post),
                Route("/v1/completions", self._complete, methods=post),
                Route("/v1/chat/completions", self._chat, methods=post),
                Route("/{path:path}", self._anything, methods=["GET", "POST", "PUT", "DELETE"]),
            ]
        )

    def count(self, path: str) -> int:
        """How many requests came to `path`."""
        return sum(seen.path == path for seen in self.seen)

    async def _note(self, request: Request) -> Any:
        body = await request.json() if request.method == "POST" else None
        self.seen.append(Seen(request.url.path, dict(request.headers), body))
        return body

    def _refuse(self, request: Request) -> Response | None:
        if self.api_key and request.headers.get("authorization") != f"Bearer {self.api_key}":
            return JSONResponse({"error": "Unauthorized"}, 401)
        return None

    async def _version(self, _: Request) -> Response:
        return JSONResponse({"version": self.version})

    async def _health(self, _: Request) -> Response:
        return Response(status_code=200 if self.is_well else 503)

    async def _models(self, request: Request) -> Response:
        if refusal := self._refuse(request):
            return refusal
        names = [self.base_name, *self.adapters, *sorted(self.spares)]
        return JSONResponse({"object": "list", "data": [{"id": name} for name in names]})

    async def _load(self, request: Request) -> Response:
        body = await request.json()
        if body["lora_name"].startswith(SPARE_NAME):
            self.spares.add(body["lora_name"])
            return Response("Success: LoRA adapter added")
        await self._note(request)
        if refusal := self._refuse(request):
            return refusal
        path = Path(body["lora_path"]) / "adapter_model.safetensors"
        if not path.is_file():
            return _error(404, f"No adapter found for {body['lora_path']}")
        self.adapters[body["lora_name"]] = path.read_bytes()[8:].decode()
        return Response("Success: LoRA adapter added")

    async def _unload(self, request: Request) -> Response:
        body = await request.json()
        if body["lora_name"] in self.spares:
            self.spares.remove(body["lora_name"])
            return Response("Success: LoRA adapter removed")
        await self._note(request)
        if self.adapters.pop(body["lora_name"], None) is None:
            return _error(404, f"The lora adapter {body['lora_name']} cannot be found.")
        return Response("Success: LoRA adapter removed")

    async def _anything(self, request: Request) -> Response:
        await self._note(request)
        return Response("an administrator's end point", 200)

    def _find_weights(self, name: str) -> str | None:
        if name == self.base_name or name in self.spares:
            return self.base_weights
        return self.adapters.get(name)

    async def _complete(self, request: Request) -> Response:
        body = await self._note(request)
        return self._refuse(request) or await self._answer(request, body, "text", body["prompt"])

    async def _chat(self, request: Request) -> Response:
        body = await self._note(request)
        messages = body["messages"]
        return self._refuse(request) or await self._answer(request, body, "message", messages)

    async def _answer(
        self, request: Request, body: dict[str, Any], kind: str, prompt: object
    ) -> Response:
        if (weights := self._find_weights(body["model"])) is None:
            return _error(404, f"The model `{body['model']}` does not exist.")
        count = body.get("max_tokens", 8)
        if count > 512:
            return _error(400, f"{body['model']} has a maximum context length of 512 tokens.")
        if body.get("stream"):
            if self.queue_seconds:
                await self._generate(request, self.queue_seconds)
            chunks = self._stream(body["model"], weights, kind, prompt, count)
            return StreamingResponse(chunks, media_type="text/event-stream")
        is_adapter = weights != self.base_weights
        self.open_adapters += is_adapter
        try:
            await self._generate(request, max(self.token_seconds * count, 0.002))
            if self.leaks and not is_adapter and self.open_adapters:
                weights = next(iter(self.adapters.values()))
        finally:
            self.open_adapters -= is_adapter
        if self.says_wrong_tokens and is_adapter:
            weights += " but wrong"
        return JSONResponse(_build_answer(body["model"], weights, kind, prompt, count))

    async def _generate(self, request: Request, seconds: float) -> None:
        """Take the time, unless the client goes away: then stop, as vLLM does."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, 0.05))
            if await request.is_disconnected():
                self.abandoned += 1
                return

    async def _stream(
        self, name: str, weights: str, kind: str, prompt: object, count: int
    ) -> AsyncIterator[bytes]:
        tokens = compute_tokens(weights, prompt, count)
        for number, word in enumerate(build_words(weights, count)):
            if self.breaks_after is not None and number >= self.breaks_after:
                self.breaks_after = None
                raise ConnectionAbortedError("switched on by the test")
            key = {"text": word} if kind == "text" else {"delta": {"content": word}}
            choice = {"index": 0, "finish_reason": None, "token_ids": [tokens[number]], **key}
            yield _event({"id": "cmpl-1", "object": kind, "model": name, "choices": [choice]})
            await asyncio.sleep(self.token_seconds)
        last = {"index": 0, "finish_reason": "stop"}
        last |= {"text": ""} if kind == "text" else {"delta": {}}
        yield _event({"id": "cmpl-1", "object": kind, "model": name, "choices": [last]})
        yield b"data: [DONE]\n\n"


class RunningVllm:
    """The fake on a port of this machine; it can be killed and started again there."""

    def __init__(self, state: FakeVllm, port: int = 0) -> None:
        self.state = state
        self._port = port
        self._start()

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._port}"

    def kill(self) -> None:
        """Every connection breaks at once, nothing listens any more, every adapter is lost."""
        asyncio.run_coroutine_threadsafe(self._abort(), self._loop).result(20)
        self._thread.join(20)
        assert not self._thread.is_alive()
        self.state.lose_adapters()

    def restart(self) -> None:
        """Start again on the same port."""
        self._start()

    def _start(self) -> None:
        config = uvicorn.Config(
            self.state.build_app(), port=self._port, log_level="critical", lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive(), "the fake did not start"
            time.sleep(0.01)
        self._port = self._server.servers[0].sockets[0].getsockname()[1]

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._server.serve())
        self._loop.close()

    async def _abort(self) -> None:
        """Accept nothing any more, then break every connection.

        The listener is not closed here: asyncio would forget, unclosed, those that it is accepting.
        """
        sockets = [listener for server in self._server.servers for listener in server.sockets]
        for listener in sockets:
            self._loop.remove_reader(listener)
        for _ in range(3):
            await asyncio.sleep(0)  # by then uvicorn knows those that are being accepted
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()
        self._server.should_exit = self._server.force_exit = True


def main() -> None:
    """Be `vllm serve` of a whole checkpoint, whose weights' bytes are what it says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--served-model-name")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    arguments, _ = parser.parse_known_args()
    weights = (arguments.folder / "model.safetensors").read_text()
    fake = FakeVllm(
        base_name=arguments.served_model_name,
        base_weights=weights,
        api_key=os.environ["VLLM_API_KEY"],
        token_seconds=0.002,
    )
    uvicorn.run(fake.build_app(), host=arguments.host, port=arguments.port, log_level="critical")


def write_program(path: Path) -> Path:
    """An executable at `path` that is the stand-in as a program."""
    root = Path(__file__).resolve().parents[1]
    path.write_text(f'#!/bin/sh\nPYTHONPATH={root} exec {sys.executable} -m tests.fake_vllm "$@"\n')
    path.chmod(0o755)
    return path


@contextmanager
def run_fake_vllm(**options: Any) -> Iterator[RunningVllm]:
    """A running fake."""
    running = RunningVllm(FakeVllm(**options))
    try:
        yield running
    finally:
        if running._thread.is_alive():
            running.kill()


def _build_answer(name: str, weights: str, kind: str, prompt: object, count: int) -> dict[str, Any]:
    text = "".join(build_words(weights, count))
    choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "logprobs": None}
    if kind == "text":
        choice |= {"text": text, "token_ids": compute_tokens(weights, prompt, count)}
    else:
        choice |= {"message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": 3 + count}
    kind_name = "text_completion" if kind == "text" else "chat.completion"
    return {
        "id": "cmpl-1",
        "object": kind_name,
        "created": 1,
        "model": name,
        "choices": [choice],
        "usage": usage,
    }


def _event(body: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message, "type": "x", "code": status}}, status)


if __name__ == "__main__":
    main()
