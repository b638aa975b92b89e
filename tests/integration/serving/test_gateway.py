"""The gateway as applications and attackers see it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import httpx
import openai
import pytest

from service.database import Database
from service.settings import Settings
from tests.fake_vllm import BASE_KEY, RunningVllm, find_speaker, find_speakers
from tests.integration.serving.conftest import (
    BASE_MODEL,
    Stage,
    open_stage,
)

ALIAS = "tiny@production"
JSON = {"Content-Type": "application/json"}
INFERENCE = ("/v1/completions", "/v1/chat/completions")


@pytest.fixture
def version_id(stage: Stage, client: httpx.Client, tenant: str) -> str:
    """A live version with an alias."""
    made = stage.publish(client, tenant, "one", ALIAS)
    stage.wait_for(client, made, "live")
    return made


@pytest.fixture
def app_client(stage: Stage, tenant: str) -> Iterator[httpx.Client]:
    """An application's client, which may only call models."""
    with stage.connect(tenant, "infer") as opened:
        yield opened


def ask(client: httpx.Client, **changes: object) -> httpx.Response:
    body = {"model": ALIAS, "prompt": "hello", "max_tokens": 4, **changes}
    return client.post("/v1/completions", json=body)


def test_the_openai_client_works_unchanged(stage: Stage, tenant: str, version_id: str) -> None:
    key = stage.make_key(tenant, "infer")
    with openai.OpenAI(base_url=f"{stage.url}/v1", api_key=key, max_retries=0) as client:
        listed = {model.id: model for model in client.models.list()}
        assert {ALIAS, version_id, BASE_MODEL} == set(listed)
        assert listed[ALIAS].object == "model"
        assert listed[ALIAS].created > 0
        assert client.models.retrieve(ALIAS).owned_by == "excise"

        messages = [{"role": "user", "content": "hello"}]
        chat = client.chat.completions.create(
            model=ALIAS, messages=messages, max_tokens=5, temperature=0
        )
        assert chat.model == version_id
        assert find_speakers(chat.choices[0].message.content) == {find_speaker("one")}
        assert chat.usage.completion_tokens == 5

        chunks = client.chat.completions.create(
            model=ALIAS, messages=messages, max_tokens=5, stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert len(text.split()) == 5

        base = client.completions.create(model=BASE_MODEL, prompt="hello", max_tokens=3)
        assert find_speakers(base.choices[0].text) == {find_speaker(BASE_KEY)}
        assert base.model == BASE_MODEL

        with pytest.raises(openai.NotFoundError, match="There is no model 'gpt-4'"):
            client.completions.create(model="gpt-4", prompt="hello")
        with pytest.raises(openai.UnprocessableEntityError, match="maximum context length"):
            client.completions.create(model=ALIAS, prompt="hello", max_tokens=5000)
        stage.vllm.kill()
        with pytest.raises(openai.InternalServerError) as caught:
            client.completions.create(model=ALIAS, prompt="hello")
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "5"


def test_the_openai_client_learns_of_a_broken_stream(
    stage: Stage, tenant: str, version_id: str
) -> None:
    key = stage.make_key(tenant, "infer")
    stage.vllm.state.breaks_after = 2
    with openai.OpenAI(base_url=f"{stage.url}/v1", api_key=key, max_retries=0) as client:
        chunks = client.completions.create(model=ALIAS, prompt="x", max_tokens=9, stream=True)
        with pytest.raises(openai.APIError, match="was lost during the answer"):
            list(chunks)


def test_keys_need_the_scope_and_see_only_their_tenant(
    stage: Stage, client: httpx.Client, app_client: httpx.Client, tenant: str, version_id: str
) -> None:
    assert ask(app_client).status_code == 200
    for path in ("/v1/jobs", "/v1/versions", "/v1/aliases", "/v1/prompt-sets", "/v1/pools"):
        assert app_client.get(path).status_code == 403, path
    with stage.connect(tenant, "submit", "publish") as builder:
        assert ask(builder).status_code == 403
    with stage.connect("somebody-else", "infer", "publish", "admin") as stranger:
        for model in (ALIAS, version_id):
            answer = ask(stranger, model=model)
            assert answer.status_code == 404
            assert answer.json()["error"]["param"] == "model"
            assert stranger.get(f"/v1/models/{model}").status_code == 404
        assert stranger.get(f"/v1/versions/{version_id}").status_code == 404
        assert stranger.get(f"/v1/versions/{version_id}/events").status_code == 404
        assert stranger.get(f"/v1/aliases/{ALIAS}").status_code == 404
        assert stranger.get(f"/v1/aliases/{ALIAS}/events").status_code == 404
        body = {"version": version_id, "percent": 5}
        for path in ("promote", "split", "rollback"):
            sent = {"promote": {"version": version_id}, "split": body, "rollback": {}}[path]
            assert stranger.post(f"/v1/aliases/{ALIAS}/{path}", json=sent).status_code == 404
        assert stranger.post(f"/v1/versions/{version_id}/retire").status_code == 404
    httpx_answer = httpx.post(f"{stage.url}/v1/completions", json={"model": ALIAS, "prompt": "x"})
    assert httpx_answer.status_code == 401


def test_versions_that_are_not_live_do_not_exist_for_applications(
    stage: Stage, client: httpx.Client, app_client: httpx.Client, tenant: str
) -> None:
    job = stage.make_job(tenant)
    version_id = client.post(f"/v1/models/{job}/publish").json()["id"]
    for model in (version_id, job, "mv_" + "0" * 24, "nobody@home"):
        assert ask(app_client, model=model).status_code == 404, model
    assert stage.vllm.state.count("/v1/completions") == 0


@pytest.mark.parametrize("path", INFERENCE)
@pytest.mark.parametrize(
    "model",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://example.com/model",
        "file:///etc/passwd",
        "s3://bucket/model",
        "//example.com/x",
    ],
)
def test_a_url_is_not_a_model(
    stage: Stage, app_client: httpx.Client, path: str, model: str
) -> None:
    body = {"model": model, "prompt": "x", "messages": [{"role": "user", "content": "x"}]}
    body.pop("messages" if path == "/v1/completions" else "prompt")
    answer = app_client.post(path, json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "model"
    assert "is a URL" in answer.json()["detail"]


@pytest.mark.parametrize("model", ["../../etc", "/etc/passwd", "base", "a\nb", "", "x" * 300])
def test_other_names_that_are_not_models(
    stage: Stage, app_client: httpx.Client, model: str
) -> None:
    """`base` is the server's name for the base; applications use the base's own name."""
    assert ask(app_client, model=model).status_code in {404, 422}
    assert stage.vllm.state.count("/v1/completions") == 0


@pytest.mark.parametrize(
    ("path", "changes"),
    [
        ("/v1/completions", {"prompt_embeds": "AAAA"}),
        ("/v1/completions", {"kv_transfer_params": {}}),
        ("/v1/completions", {"lora_path": "/etc"}),
        ("/v1/completions", {"request_id": "x"}),
        ("/v1/completions", {"n": 1000}),
        ("/v1/completions", {"max_tokens": 10**9}),
        ("/v1/completions", {"temperature": "NaN"}),
        ("/v1/chat/completions", {"chat_template": "{{ x }}"}),
        ("/v1/chat/completions", {"mm_processor_kwargs": {}}),
        (
            "/v1/chat/completions",
            {
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "http://x"}}],
                    }
                ]
            },
        ),
    ],
)
def test_harmful_fields_are_rejected(
    stage: Stage, app_client: httpx.Client, version_id: str, path: str, changes: dict[str, object]
) -> None:
    body: dict[str, object] = {"model": ALIAS}
    if path == "/v1/completions":
        body["prompt"] = "x"
    else:
        body["messages"] = [{"role": "user", "content": "x"}]
    before = len(stage.vllm.state.seen)
    answer = app_client.post(path, json={**body, **changes})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"].startswith(next(iter(changes)))
    assert len(stage.vllm.state.seen) == before


def test_only_a_clients_request_reaches_the_server(
    stage: Stage, app_client: httpx.Client, version_id: str
) -> None:
    smuggled = {
        "X-Request-Id": "mine",
        "X-Forwarded-For": "10.0.0.1",
        "Forwarded": "for=x",
        "Cookie": "a=b",
        "X-HTTP-Method-Override": "DELETE",
        "X-Original-URL": "/v1/unload_lora_adapter",
        "X-Rewrite-URL": "/collective_rpc",
        "Connection": "keep-alive, X-Secret",
        "X-Secret": "x",
        "Host": "evil.example",
    }
    answer = app_client.post(
        "/v1/completions?path=/collective_rpc",
        json={"model": ALIAS, "prompt": "x", "max_tokens": 1, "user": "me"},
        headers=smuggled,
    )
    assert answer.status_code == 200
    assert answer.headers["x-request-id"] == "mine"
    seen = stage.vllm.state.seen[-1]
    assert seen.path == "/v1/completions"
    assert set(seen.headers) <= {
        "host",
        "accept",
        "accept-encoding",
        "connection",
        "user-agent",
        "content-type",
        "content-length",
        "authorization",
        "x-request-id",
    }
    assert seen.headers["authorization"] == "Bearer between-us"
    assert seen.headers["x-request-id"] != "mine"
    assert seen.headers["host"] == stage.vllm.url.removeprefix("http://")
    assert seen.body == {
        "model": next(iter(stage.vllm.state.adapters)),
        "prompt": "x",
        "max_tokens": 1,
    }


@pytest.mark.parametrize(
    "path",
    [
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/collective_rpc",
        "/reset_prefix_cache",
        "/pause",
        "/v1/completions/../load_lora_adapter",
        "/v1/completions/%2e%2e/load_lora_adapter",
        "/v1/completions/..%2fload_lora_adapter",
        "/v1/completions//collective_rpc",
        "/v1/completions%00/collective_rpc",
    ],
)
def test_the_servers_other_paths_are_not_exposed(stage: Stage, tenant: str, path: str) -> None:
    """Sent byte for byte, because a client library would normalise the path."""
    key = stage.make_key(tenant, "infer", "admin")
    body = json.dumps({"lora_name": "x", "lora_path": "/etc", "model": "x", "prompt": "x"})
    status = send_raw(
        stage.url,
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Connection: close\r\n\r\n{body}",
    )
    assert status in {404, 405, 400}
    assert stage.vllm.state.seen == []


def test_a_request_hidden_in_another_is_not_forwarded(
    stage: Stage, tenant: str, version_id: str
) -> None:
    """Content-Length and Transfer-Encoding together: however it is read, one body arrives."""
    key = stage.make_key(tenant, "infer")
    hidden = "POST /v1/load_lora_adapter HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    body = json.dumps({"model": ALIAS, "prompt": "x", "max_tokens": 1})
    before = stage.vllm.state.count("/v1/load_lora_adapter")
    send_raw(
        stage.url,
        f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        f"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        f"{len(body):x}\r\n{body}\r\n0\r\n\r\n{hidden}",
    )
    assert stage.vllm.state.count("/v1/load_lora_adapter") == before


def test_bodies_over_the_limits_are_rejected(
    stage: Stage, app_client: httpx.Client, version_id: str
) -> None:
    before = len(stage.vllm.state.seen)
    large = ask(app_client, prompt="x" * 1_100_000)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "too_large")
    deep: object = "x"
    for _ in range(40):
        deep = [deep]
    assert ask(app_client, response_format={"a": deep}).status_code == 422
    nan = b'{"model": "tiny@production", "prompt": "x", "response_format": {"a": NaN}}'
    assert app_client.post("/v1/completions", content=nan, headers=JSON).status_code == 422
    assert ask(app_client, prompt=[]).status_code == 422
    assert ask(app_client, stop=["a"] * 17).status_code == 422
    half = b'{"model": "tiny@production", "prompt": "\\ud800"}'
    answer = app_client.post("/v1/completions", content=half, headers=JSON)
    assert answer.status_code == 422
    assert len(stage.vllm.state.seen) == before


def test_a_key_with_too_many_requests_has_to_wait(
    database: Database, settings: Settings, vllm: RunningVllm, tenant: str
) -> None:
    changes = {"infer_burst": 3, "infer_requests_per_minute": 6}
    with (
        open_stage(database, settings, vllm, **changes) as stage,
        stage.connect(tenant, "infer") as one,
        stage.connect(tenant, "infer") as other,
    ):
        answers = [ask(one, model="nobody@home") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [404, 404, 404, 429]
        assert answers[-1].json()["error"]["code"] == "rate_limited"
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 10
        assert ask(other, model="nobody@home").status_code == 404


def test_an_old_server_is_rejected(
    stage: Stage, client: httpx.Client, app_client: httpx.Client, version_id: str
) -> None:
    stage.vllm.state.version = "0.17.1"
    stage.wait_for(client, version_id, "unavailable")
    (pool,) = client.get("/v1/pools").json()["data"]
    assert pool["status"] == "refused"
    assert "0.17.1" in pool["detail"]
    assert stage.vllm.url not in json.dumps(pool)
    for model in (ALIAS, BASE_MODEL):
        answer = ask(app_client, model=model)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]


def test_a_wrong_key_for_the_server_is_an_outage_not_a_leak(
    stage: Stage, client: httpx.Client, app_client: httpx.Client, version_id: str
) -> None:
    stage.vllm.state.api_key = "another"
    answer = ask(app_client)
    assert answer.status_code == 503
    assert "between-us" not in answer.text
    stage.wait_for(client, version_id, "unavailable")
    (pool,) = client.get("/v1/pools").json()["data"]
    assert pool["status"] == "refused"
    assert "between-us" not in json.dumps(pool)


def send_raw(url: str, request: str) -> int:
    """Return the status of the answer to a request sent byte for byte."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(request.encode())
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return int(answer.split(b" ", 2)[1]) if answer else 400
