"""A body that gives a key twice is refused by name, on every route that reads JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from pydantic import BaseModel, SecretStr

from service.app import create_app
from service.problems import install_error_handlers
from service.settings import Settings
from service.strict_bodies import MAX_FIELDS, StrictJsonRoute


class Gates(BaseModel):
    refusal: dict[str, float]
    others: list[dict[str, int]] = []


@pytest.fixture(scope="module")
def client() -> TestClient:
    router = APIRouter(route_class=StrictJsonRoute)

    @router.post("/gates")
    def make_gates(gates: Gates) -> Gates:
        return gates

    app = FastAPI()
    install_error_handlers(app)
    app.include_router(router)
    return TestClient(app)


def post(client: TestClient, content: str, kind: str = "application/json") -> Any:
    return client.post("/gates", content=content, headers={"Content-Type": kind})


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ('{"refusal": {"max_rise": 0.0}, "refusal": {"max_rise": 1.0}}', "refusal"),
        ('{"refusal": {"max_rise": 0.0, "max_rise": 1.0}}', "max_rise"),
        ('{"refusal": {}, "others": [{"a": 1}, {"b": 1, "b": 1}]}', "b"),
        ('{"refusal": {}, "unknown": {"\\u0061": 1, "a": 2}}', "a"),
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "application/merge-patch+json"])
def test_a_key_given_twice_is_refused_by_name(
    client: TestClient, content: str, key: str, kind: str
) -> None:
    answer = post(client, content, kind)
    assert (answer.status_code, answer.headers["Content-Type"]) == (422, "application/problem+json")
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_request", key)
    assert f"the key '{key}' is given twice" in error["message"]


@pytest.mark.parametrize("objects", [1, 100])
def test_countless_fields_are_refused_before_validation(client: TestClient, objects: int) -> None:
    fields = {f"f{number}": number for number in range(MAX_FIELDS // objects + 1)}
    answer = post(client, json.dumps({"refusal": {}, "others": [fields] * objects}))
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "body"
    assert f"more than {MAX_FIELDS} fields" in answer.json()["detail"]


def test_other_bodies_are_read_as_ever(client: TestClient) -> None:
    good = post(client, '{"refusal": {"max_rise": 0.5}, "others": [{"a": 1}, {"a": 2}]}')
    assert good.json() == {"refusal": {"max_rise": 0.5}, "others": [{"a": 1}, {"a": 2}]}
    assert "not valid JSON" in post(client, "{").json()["error"]["message"]
    assert post(client, '{"refusal": 1}').json()["error"]["param"] == "refusal"
    assert (
        post(client, '{"refusal": "\xff"}'.encode("latin-1").decode("latin-1")).status_code == 422
    )


def find_routes(routes: Iterable[Any]) -> list[APIRoute]:
    found = []
    for route in routes:
        if isinstance(route, APIRoute):
            found.append(route)
        else:  # FastAPI keeps included routers whole
            found += find_routes(getattr(getattr(route, "original_router", None), "routes", []))
    return found


def test_every_route_of_the_service_with_a_body_is_strict(tmp_path: Path) -> None:
    database = SecretStr("postgresql://nobody@127.0.0.1:1/none")  # nothing connects to it
    app = create_app(Settings(database_url=database, artifacts=str(tmp_path)))
    with_bodies = [route for route in find_routes(app.routes) if route.body_field is not None]
    assert {route.path for route in with_bodies} >= {"/v1/jobs", "/v1/chat/completions"}
    assert [route.path for route in with_bodies if not isinstance(route, StrictJsonRoute)] == []
