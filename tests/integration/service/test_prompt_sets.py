"""Prompt sets over HTTP: limits, duplicates, paging."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from tests.integration.service.conftest import upload

TEXT = {"Content-Type": "text/plain; charset=utf-8"}
JSONL = {"Content-Type": "application/jsonl"}


def test_a_set_is_created_once(client: TestClient) -> None:
    first = client.post("/v1/prompt-sets?name=a", content="one\n\ntwo\r\n", headers=TEXT)
    assert first.status_code == 201
    assert first.json()["prompts"] == 2
    assert first.json()["bytes"] == 10
    again = client.post("/v1/prompt-sets?name=a", content="one\n\ntwo\r\n", headers=TEXT)
    assert (again.status_code, again.json()) == (200, first.json())
    other = client.post("/v1/prompt-sets?name=b", content="one\n\ntwo\r\n", headers=TEXT)
    assert other.status_code == 201
    assert client.get(f"/v1/prompt-sets/{first.json()['id']}").json() == first.json()


@pytest.mark.parametrize(
    ("content", "headers", "says"),
    [
        (b"", TEXT, "no prompts"),
        (b"\n \n", TEXT, "no prompts"),
        (b"fine\n\x00\x01", TEXT, "Line 2 has a NUL"),
        (b"fine\n\xff\xfe", TEXT, "Line 2 is not UTF-8"),
        (b"a" * 40_000, TEXT, "the limit is 32768"),
        (b"a\n" * 20_001, TEXT, "20000"),
        (b'{"prompt": "a"}\n{"prompt": ', JSONL, "Line 2 is not valid JSON"),
        (b'{"prompt": "a"}\n\n{"other": "b"}', JSONL, "Line 3 has no string"),
        (b'{"prompt": "\\ud800"}', JSONL, "surrogate"),
        (b'{"prompt": "a\\u0000b"}', JSONL, "NUL"),
        (b"a", {"Content-Type": "application/pdf"}, "text/plain"),
        (b"a", {}, "Content-Type"),
    ],
)
def test_bad_files_are_rejected(
    client: TestClient, content: bytes, headers: dict[str, str], says: str
) -> None:
    response = client.post("/v1/prompt-sets?name=a", content=content, headers=headers)
    assert response.status_code == 422, response.text
    assert says in response.json()["detail"]
    assert len(response.content) < 2000


def test_a_ten_megabyte_prompt_is_rejected_by_size(client: TestClient) -> None:
    response = client.post("/v1/prompt-sets?name=a", content=b"a" * 10_000_000, headers=TEXT)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "too_large"
    assert "8388608" in response.json()["detail"]


@pytest.mark.parametrize("name", ["", "a" * 129, "a%00b", "a%0Ab"])
def test_bad_names_are_rejected(client: TestClient, name: str) -> None:
    response = client.post(f"/v1/prompt-sets?name={name}", content=b"a", headers=TEXT)
    assert response.status_code == 422
    assert response.json()["error"]["param"] == "name"


def test_sets_are_listed_newest_first_page_by_page(client: TestClient) -> None:
    made = [upload(client, 4, f"set{index}") for index in range(5)]
    seen: list[str] = []
    after = ""
    while True:
        page = client.get(f"/v1/prompt-sets?limit=2{after}").json()
        seen += [found["id"] for found in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={seen[-1]}"
    assert seen == made[::-1]
    assert client.get("/v1/prompt-sets?after=ps_nothing").status_code == 422
    assert client.get("/v1/prompt-sets/ps_%00").status_code == 404
