from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import httpx
import pytest

from service.serving import vllm
from service.serving.vllm import (
    AdapterAlreadyLoadedError,
    AdapterRankError,
    Completion,
    ServedModel,
    UnknownServedModelError,
    VllmAnswerError,
    VllmRefusalError,
    VllmServer,
    VllmUnreachableError,
    VllmVersionError,
    check_version,
)

KEY = "secret-key"
GUARD_SECONDS = 30


def ask(
    handler: Callable[[httpx.Request], httpx.Response],
    question: Callable[[VllmServer], Coroutine[Any, Any, Any]],
) -> Any:
    """What the client makes of a server's answer."""

    async def go() -> Any:
        transport = httpx.MockTransport(handler)
        async with VllmServer("http://vllm:1/", KEY, transport=transport) as server:
            return await question(server)

    return asyncio.run(go())


def always(status: int, body: Any = None) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(status, json=body)


def refuse(status: int, message: str) -> Callable[[httpx.Request], httpx.Response]:
    return always(status, {"error": {"message": message, "type": "E", "code": status}})


COMPLETION = {
    "choices": [
        {
            "token_ids": [7, 8],
            "text": " so",
            "finish_reason": "length",
            "logprobs": {"token_logprobs": [-0.5, -0.25]},
        }
    ]
}


def test_a_completion_is_asked_for_greedily_by_token_ids() -> None:
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=COMPLETION)

    found = ask(handle, lambda s: s.complete("mv_1", (1, 2), 2, logprobs=True, ignore_eos=True))
    assert found == Completion((7, 8), " so", "length", (-0.5, -0.25))
    (request,) = seen
    body = json.loads(request.content)
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert (request.url.path, body["model"], body["prompt"]) == ("/v1/completions", "mv_1", [1, 2])
    assert (body["temperature"], body["repetition_penalty"]) == (0, 1.0)
    assert body["return_token_ids"]
    assert body["ignore_eos"]


def test_models_are_names_with_their_base() -> None:
    body = {"data": [{"id": "base", "root": "/m", "parent": None}, {"id": "a", "parent": "base"}]}
    assert ask(always(200, body), lambda s: s.models()) == (
        ServedModel("base", "/m", None),
        ServedModel("a", None, "base"),
    )


@pytest.mark.parametrize(
    ("status", "message", "kind", "remedy"),
    [
        (
            500,
            "LoRA rank 64 is greater than max_lora_rank 8.",
            AdapterRankError,
            "Restart it with a larger --max-lora-rank",
        ),
        (
            400,
            "The lora adapter 'a' has already been loaded.",
            AdapterAlreadyLoadedError,
            "Unload it first",
        ),
        (
            404,
            "Loading lora a failed: No adapter found for /x",
            UnknownServedModelError,
            "Check the name",
        ),
        (404, "The lora adapter 'a' cannot be found.", UnknownServedModelError, "Check the name"),
        (401, "Unauthorized", VllmRefusalError, "API key must be the server's"),
        (500, "engine is dead", VllmRefusalError, "engine is dead"),
    ],
)
def test_refusals_have_a_kind_and_a_remedy(
    status: int, message: str, kind: type[VllmRefusalError], remedy: str
) -> None:
    with pytest.raises(VllmRefusalError, match=remedy) as caught:
        ask(refuse(status, message), lambda s: s.load_adapter("a", "/x"))
    assert type(caught.value) is kind
    assert caught.value.status == status
    assert KEY not in str(caught.value)


def test_a_server_that_is_away_is_unreachable_and_not_healthy() -> None:
    def handle(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(VllmUnreachableError, match="may be starting"):
        ask(handle, lambda s: s.models())
    assert ask(handle, lambda s: s.health()) is False
    assert ask(always(503), lambda s: s.health()) is False
    assert ask(always(200), lambda s: s.health()) is True


def test_a_server_that_never_finishes_its_answer_is_unreachable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None of its pauses is as long as it may be silent."""
    monkeypatch.setattr(vllm, "_LOAD_SECONDS", 0.2)

    async def drip() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    async def load(server: VllmServer) -> None:
        await asyncio.wait_for(server.load_adapter("a", "b"), GUARD_SECONDS)

    with pytest.raises(VllmUnreachableError, match="TimeoutError"):
        ask(lambda _: httpx.Response(200, content=drip()), load)


def test_a_refusal_of_deeply_nested_json_is_quoted() -> None:
    with pytest.raises(VllmRefusalError, match=r"\(500\): \[\["):
        ask(lambda _: httpx.Response(500, content=b"[" * 10_000), lambda server: server.models())


def test_a_refusal_that_repeats_our_key_is_redacted() -> None:
    with pytest.raises(VllmRefusalError) as raised:
        ask(refuse(401, f"Authorization: Bearer {KEY} is wrong"), lambda server: server.models())
    assert KEY not in str(raised.value)


def test_redirects_are_not_followed() -> None:
    answer = httpx.Response(307, headers={"location": "http://elsewhere/"})
    with pytest.raises(VllmRefusalError, match="307"):
        ask(lambda _: answer, lambda s: s.models())


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"choices": []},
        {"choices": [{"text": "x"}]},
        {"choices": [{"token_ids": ["7"], "text": "x"}]},
        {"choices": [{"token_ids": [7], "text": "x", "logprobs": {"token_logprobs": []}}]},
    ],
)
def test_answers_of_another_shape_are_errors(body: Any) -> None:
    with pytest.raises(VllmAnswerError):
        ask(always(200, body), lambda s: s.complete("m", (1,), 1, logprobs=True))


def test_answers_that_are_not_json_are_errors() -> None:
    with pytest.raises(VllmAnswerError, match="Check that the URL is a vLLM server's"):
        ask(lambda _: httpx.Response(200, text="<html>"), lambda s: s.models())
    with pytest.raises(VllmRefusalError, match="Bad gateway"):
        ask(lambda _: httpx.Response(502, text="Bad\n gateway"), lambda s: s.models())


@pytest.mark.parametrize("version", ["0.18.0", "0.32.0+cpu", "1.0", "0.100.2rc1"])
def test_new_versions_will_do(version: str) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["0.17.9", "0.6.1.post2", "dev", ""])
def test_old_versions_are_refused(version: str) -> None:
    with pytest.raises(VllmVersionError, match=r"upgrade it to 0\.18 or newer"):
        ask(always(200, {"version": version}), lambda s: s.version())
