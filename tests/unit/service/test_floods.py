"""A body of countless mistakes is refused after a look at few of them; the work is counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, TypeAdapter, ValidationError

from excise.specs import CorrectionSpec, JobSpec, complaints
from excise.specs.complaints import MAX_COMPLAINTS, describe_complaints
from service.app import create_app
from service.errors import InvalidRequestError
from service.gateway.requests import MAX_PROMPT_TOKENS, ChatRequest, CompletionRequest
from service.problems import translate_validation_errors
from service.settings import Settings
from tests.unit.service.test_strict_bodies import find_routes

MANY = 5000
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi."}]}
CORRECTION = {"kind": "correction", "model": "tiny", "reference": "ps_2"}
PHRASES = {"name": "b", "kind": "phrase", "prompts": "ps_1", "phrases": [""] * MANY}


def list_errors(kind: Any, document: Mapping[str, Any]) -> list[Any]:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(document)
    return caught.value.errors(include_url=False)


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        (CompletionRequest, {"model": "m", "prompt": [[] for _ in range(MANY)]}),
        (CompletionRequest, {"model": "m", "prompt": [[""] * MANY]}),
        (CompletionRequest, {"model": "m", "prompt": [0] * (MAX_PROMPT_TOKENS + 1)}),
        (ChatRequest, {**CHAT, "stop_token_ids": [""] * MANY}),
        (ChatRequest, {**CHAT, "messages": [{}] * MANY}),
        (ChatRequest, {**CHAT, "messages": [{"role": "user", "content": [{}] * MANY}]}),
        (JobSpec, {**CORRECTION, "behaviours": [PHRASES] * 8}),
        (JobSpec, {**CORRECTION, "behaviours": [{}] * MANY}),
    ],
)
def test_a_list_of_mistakes_makes_few_errors(kind: Any, document: Mapping[str, Any]) -> None:
    assert len(list_errors(kind, document)) < 10


def list_schemas(part: Any, seen: set[int]) -> Iterator[Mapping[str, Any]]:
    """Every list in one of pydantic's core schemas."""
    if id(part) in seen or not isinstance(part, dict | list | tuple):
        return
    seen.add(id(part))
    if isinstance(part, dict) and part.get("type") == "list":
        yield part
    for inner in part.values() if isinstance(part, dict) else part:
        yield from list_schemas(inner, seen)


def test_every_list_of_every_body_is_limited_and_ends_at_its_first_mistake(tmp_path: Path) -> None:
    database = SecretStr("postgresql://nobody@127.0.0.1:1/none")  # nothing connects to it
    app = create_app(Settings(database_url=database, artifacts=str(tmp_path)))
    kinds = {
        route.body_field.field_info.annotation
        for route in find_routes(app.routes)
        if route.body_field is not None
    }
    found = [
        (kind, own) for kind in kinds for own in list_schemas(TypeAdapter(kind).core_schema, set())
    ]
    assert len(found) > 20
    careless = [
        (kind, own) for kind, own in found if not (own.get("max_length") and own.get("fail_fast"))
    ]
    assert careless == []


def test_one_complaint_is_written_for_countless_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    written, compared = count_calls(monkeypatch)
    unknown = {f"seee{number}": 1 for number in range(MANY)}
    errors = list_errors(JobSpec, {**CORRECTION, "behaviours": [PHRASES], **unknown})
    translate_validation_errors(errors)
    translate_validation_errors([error for error in errors if error["type"] == "extra_forbidden"])
    assert (len(written), len(compared)) == (2, 1)


def test_a_wrong_kind_goes_first_however_late_it_is_found() -> None:
    errors = list_errors(JobSpec, {**CORRECTION, "unknown": 1})
    late = {"type": "union_tag_invalid", "loc": ("body",), "input": {}}
    assert translate_validation_errors([*errors, late]).param == "kind"


def test_a_command_line_lists_the_first_and_counts_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written, compared = count_calls(monkeypatch)
    document = {
        **CORRECTION,
        "behaviours": [PHRASES],
        **{f"seee{number}": 1 for number in range(MANY)},
    }
    with pytest.raises(ValidationError) as caught:
        CorrectionSpec.model_validate(document)
    said = describe_complaints(caught.value, CorrectionSpec)
    assert said.endswith(f"Further complaints: {MANY + 1 - MAX_COMPLAINTS}.")
    assert len(written) == MAX_COMPLAINTS
    assert len(compared) < MAX_COMPLAINTS


def test_a_long_name_is_compared_with_none(monkeypatch: pytest.MonkeyPatch) -> None:
    _, compared = count_calls(monkeypatch)
    (error,) = (
        error
        for error in list_errors(CorrectionSpec, {**CORRECTION, "s" * 100_000: 1})
        if error["type"] == "extra_forbidden"
    )
    assert "not a known field" in translate_validation_errors([error]).message
    assert compared == []


def count_calls(monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[Any]]:
    """Lists that grow with each complaint written, and with each comparison of names."""
    written: list[Any] = []
    compared: list[Any] = []
    describe, compare = complaints._describe, complaints.get_close_matches

    def describe_counted(error: Any, models: Any) -> str:
        written.append(error)
        return describe(error, models)

    def compare_counted(name: str, *more: Any, **options: Any) -> list[str]:
        compared.append(name)
        return compare(name, *more, **options)

    monkeypatch.setattr(complaints, "_describe", describe_counted)
    monkeypatch.setattr(complaints, "get_close_matches", compare_counted)
    return written, compared


def test_numbers_that_are_not_finite_are_refused_once_wherever_they_are() -> None:
    endless = {"enum": [float("inf")] * MANY}
    request = ChatRequest.model_validate({**CHAT, "response_format": endless})
    with pytest.raises(InvalidRequestError, match="not finite"):
        request.encode_upstream("served")
