"""A client of one vLLM server: its health and adapters, and token-exact completions.

VllmError
├── VllmUnreachableError    no answer: it is starting, restarting or gone
├── VllmVersionError        the server is older than this client can drive
├── VllmAnswerError         what came back is not what vLLM documents
└── VllmRefusalError        the server answered with an error status
    ├── UnknownServedModelError   404: no model, adapter or adapter folder of that name
    ├── AdapterAlreadyLoadedError an adapter of that name is there already
    └── AdapterRankError          the adapter's rank is above the server's --max-lora-rank
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from excise.redaction import redact
from service.tracing import build_trace_headers

MIN_VERSION = (0, 18)
"""Oldest vLLM (major, minor) whose adapter endpoints behave as this client expects."""

_Model = TypeVar("_Model", bound=BaseModel)

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 30.0
_GENERATION_SECONDS = 300.0
_LOAD_SECONDS = 120.0
_MAX_MESSAGE_CHARACTERS = 500
_VERSION = re.compile(r"(\d+)\.(\d+)")


class VllmError(Exception):
    """Base class of this client's errors."""


class VllmUnreachableError(VllmError):
    """The server does not answer; it may be starting. Wait, or look at its log."""


class VllmVersionError(VllmError):
    """The server's version is too old. Upgrade it."""


class VllmAnswerError(VllmError):
    """The answer cannot be read. Check that the URL is a vLLM server's."""


class VllmRefusalError(VllmError):
    """The server refused; `status` is its HTTP status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class UnknownServedModelError(VllmRefusalError):
    """The server has no model of this name, or no adapter at this path."""


class AdapterAlreadyLoadedError(VllmRefusalError):
    """An adapter with this name is already loaded; unload it first, or use another name."""


class AdapterRankError(VllmRefusalError):
    """The adapter's rank is above the server's; restart it with a larger --max-lora-rank."""


@dataclass(frozen=True)
class ServedModel:
    """One model name that the server serves."""

    name: str
    path: str | None
    """Path of its files on the server's machine."""
    parent: str | None
    """The base model's name, for an adapter."""


@dataclass(frozen=True)
class Completion:
    """One greedy continuation."""

    token_ids: tuple[int, ...]
    """The generated tokens, including an end-of-sequence token if one was generated."""
    text: str
    finish_reason: str | None
    logprobs: tuple[float, ...]
    """Natural logarithm of each generated token's probability; empty unless requested."""


class _Card(BaseModel):
    id: str
    root: str | None = None
    parent: str | None = None


class _Cards(BaseModel):
    data: list[_Card]


class _Logprobs(BaseModel):
    token_logprobs: list[float | None]


class _Choice(BaseModel):
    model_config = ConfigDict(strict=True)

    token_ids: list[int]
    text: str
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Completions(BaseModel):
    choices: list[_Choice]


class _Version(BaseModel):
    version: str


class VllmServer:
    """One vLLM server. Use as `async with`, or call `aclose`.

    Every method raises `VllmUnreachableError` if the server does not answer, `VllmRefusalError` or
    a subclass on an error status, and `VllmAnswerError` on an answer that it cannot parse.
    `api_key` goes into the Authorization header and nowhere else.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),  # see `_request`
            transport=transport,
            trust_env=False,
            follow_redirects=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def version(self) -> str:
        """Return the server's version. Raises `VllmVersionError` below `MIN_VERSION`."""
        text = _read(_Version, await self._request("GET", "/version")).version
        check_version(text)
        return text

    async def health(self) -> bool:
        """Return whether the server answers and its engine works."""
        try:
            await self._request("GET", "/health")
        except (VllmUnreachableError, VllmRefusalError):
            return False
        return True

    async def models(self) -> tuple[ServedModel, ...]:
        """Return every model name that the server serves: its base and the loaded adapters."""
        cards = _read(_Cards, await self._request("GET", "/v1/models")).data
        return tuple(ServedModel(card.id, card.root, card.parent) for card in cards)

    async def load_adapter(self, name: str, path: Path | str) -> None:
        """Load the PEFT adapter in a folder of the server's machine under `name`.

        The folder's content must never change: vLLM keeps cached prefixes by its name. Raises
        `UnknownServedModelError` when the folder is not there, `AdapterAlreadyLoadedError`, and
        `AdapterRankError`.
        """
        body = {"lora_name": name, "lora_path": str(path)}
        await self._request("POST", "/v1/load_lora_adapter", body, seconds=_LOAD_SECONDS)

    async def unload_adapter(self, name: str) -> None:
        """Unload `name`. Raises `UnknownServedModelError` if it is not loaded."""
        await self._request("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    async def complete(
        self,
        model: str,
        prompt_token_ids: Sequence[int],
        max_tokens: int,
        *,
        logprobs: bool = False,
        ignore_eos: bool = False,
    ) -> Completion:
        """Return the greedy continuation of a tokenised prompt by `model` (base or adapter name).

        The most probable token is taken, whatever the checkpoint's generation settings say. With
        `ignore_eos`, generation continues after an end-of-sequence token. Raises
        `UnknownServedModelError`.
        """
        body = {
            "model": model,
            "prompt": list(prompt_token_ids),
            "max_tokens": max_tokens,
            "temperature": 0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "ignore_eos": ignore_eos,
            "return_token_ids": True,
            "logprobs": 0 if logprobs else None,
        }
        answer = await self._request("POST", "/v1/completions", body, seconds=_GENERATION_SECONDS)
        choices = _read(_Completions, answer).choices
        if len(choices) != 1:
            raise VllmAnswerError(f"{self.url} gave {len(choices)} continuations instead of one.")
        (choice,) = choices
        return Completion(
            token_ids=tuple(choice.token_ids),
            text=choice.text,
            finish_reason=choice.finish_reason,
            logprobs=self._read_logprobs(choice) if logprobs else (),
        )

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        seconds: float = _ANSWER_SECONDS,
    ) -> httpx.Response:
        """Return the whole answer, if it has arrived within `seconds`, however many its pieces."""
        try:
            async with asyncio.timeout(seconds):
                answer = await self._http.request(
                    method, path, json=body, headers=build_trace_headers()
                )
        except (httpx.HTTPError, TimeoutError) as error:
            raise VllmUnreachableError(
                f"vLLM at {self.url} does not answer ({type(error).__name__}). "
                "It may be starting; if that does not change, look at its log."
            ) from None
        if answer.status_code >= 300:
            raise _build_refusal(answer, path)
        return answer

    def _read_logprobs(self, choice: _Choice) -> tuple[float, ...]:
        found = choice.logprobs.token_logprobs if choice.logprobs else []
        logprobs = tuple(value for value in found if value is not None)
        if len(logprobs) != len(choice.token_ids):
            raise VllmAnswerError(
                f"{self.url} gave {len(logprobs)} log-probabilities for {len(choice.token_ids)} "
                "tokens."
            )
        return logprobs


def check_version(version: str) -> None:
    """Raise `VllmVersionError` unless the version is at least `MIN_VERSION`."""
    found = _VERSION.match(version)
    if found is None or tuple(map(int, found.groups())) < MIN_VERSION:
        least = ".".join(map(str, MIN_VERSION))
        raise VllmVersionError(
            f"The server runs vLLM {version[:40]}; upgrade it to {least} or newer."
        )


def _build_refusal(answer: httpx.Response, path: str) -> VllmRefusalError:
    """Return the error for an answer with an error status."""
    status = answer.status_code
    message = _read_message(answer)
    text = f"vLLM refused {path.partition('?')[0]} ({status}): {message}"
    lowered = message.lower()
    if "already been loaded" in lowered or "already loaded" in lowered:
        return AdapterAlreadyLoadedError(f"{text} Unload it first, or use another name.", status)
    if "lora rank" in lowered and "max_lora_rank" in lowered:
        return AdapterRankError(f"{text} Restart it with a larger --max-lora-rank.", status)
    if status == 404 or "no adapter found" in lowered or "cannot be found" in lowered:
        return UnknownServedModelError(f"{text} Check the name, or load it.", status)
    if status in {401, 403}:
        return VllmRefusalError(f"{text} The pool's API key must be the server's.", status)
    return VllmRefusalError(text, status)


def _read_message(answer: httpx.Response) -> str:
    """Return the server's error message, however it is sent, without secrets and truncated."""
    try:
        body = answer.json()
    except (ValueError, RecursionError):
        body = None
    error = body.get("error", body) if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    text = message if isinstance(message, str) else answer.text
    return redact(" ".join(text.split()))[:_MAX_MESSAGE_CHARACTERS] or "no reason given"


def _read(kind: type[_Model], answer: httpx.Response) -> _Model:
    """Return the answer's body as `kind`. Raises `VllmAnswerError`."""
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise VllmAnswerError(
            f"{answer.url.path} gave an unexpected answer ({place}: {first['msg']}). "
            "Check that the URL is a vLLM server's."
        ) from None
