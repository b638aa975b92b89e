"""Rounds of a conversation: an answer's message is sent back as it came."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage
from pydantic import ValidationError

from service.gateway.requests import ChatRequest, CompletionRequest

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ANSWERED: dict[str, Any] = {
    "role": "assistant",
    "content": "Hello.",
    "refusal": None,
    "annotations": None,
    "audio": None,
    "function_call": None,
    "tool_calls": [],
    "reasoning": None,
    "reasoning_content": None,
}
"""Of vLLM, field by field."""


def send(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages as they reach the server."""
    request = ChatRequest.model_validate({"model": "m@x", "messages": list(messages)})
    body = json.loads(request.encode_upstream("served"))
    assert body["model"] == "served"
    found: list[dict[str, Any]] = body["messages"]
    return found


def test_an_answer_is_taken_as_it_came_and_stripped() -> None:
    question = {"role": "user", "content": "Hi."}
    assert send(question, ANSWERED, question) == [
        question,
        {"role": "assistant", "content": "Hello."},
        question,
    ]


def test_the_clients_own_message_object_is_taken() -> None:
    for message in (
        ChatCompletionMessage.model_validate(ANSWERED),
        ChatCompletionMessage(role="assistant", content="Hello."),
    ):
        for document in (message.model_dump(), message.to_dict()):
            assert send(document) == [{"role": "assistant", "content": "Hello."}]


def test_a_round_with_tools_keeps_calls_and_results() -> None:
    asked = ANSWERED | {"content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "call_1", "content": ""}
    assert send(asked, result) == [
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        result,
    ]


def test_reasoning_and_refusals() -> None:
    refused = ANSWERED | {"refusal": "No.", "reasoning": "hm", "content": None}
    assert send(refused) == [{"role": "assistant", "content": None, "reasoning": "hm"}]


@pytest.mark.parametrize(
    "field", [{"audio": {"id": "a"}}, {"function_call": {"name": "f"}}, {"image": "http://x"}]
)
def test_what_would_change_the_meaning_is_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        send(ANSWERED | field)


@pytest.mark.parametrize(
    ("field", "taken", "refused"),
    [
        ("stop_token_ids", [2**31 - 1] * 100, [2**31]),
        ("stop_token_ids", [1], [1] * 101),
        ("prompt", [2**31 - 1], [2**63]),
        ("prompt", [[2**31 - 1]], [[2**63]]),
        ("top_k", 2**31 - 1, 2**31),
    ],
)
def test_what_would_end_a_servers_engine_is_refused(field: str, taken: Any, refused: Any) -> None:
    """128 stop tokens, the model's own among them, and 32 bits are what vLLM's buffers hold."""
    request = {"model": "m", "prompt": "x", "min_tokens": 1}
    CompletionRequest.model_validate(request | {field: taken})
    with pytest.raises(ValidationError):
        CompletionRequest.model_validate(request | {field: refused})


@pytest.mark.parametrize("prompt", [[7.0, 8], [[7.0], [8]]])
def test_whole_numbers_are_integers_however_json_writes_them(prompt: list[Any]) -> None:
    request = CompletionRequest.model_validate({"model": "m", "prompt": prompt, "n": 2.0})
    sent = json.loads(request.encode_upstream("served"))
    assert json.dumps(sent["prompt"]) == json.dumps([[7], [8]] if prompt[0] == [7.0] else [7, 8])
    assert request.n == 2
    for wrong in ({"n": 2.5}, {"n": "2"}, {"prompt": [7.5]}):
        with pytest.raises(ValidationError):
            CompletionRequest.model_validate({"model": "m", "prompt": "x", **wrong})
