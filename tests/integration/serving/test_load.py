"""Under load: aliases switch and roll back unnoticed, and a dying server does little harm."""

from __future__ import annotations

import threading
import time
from functools import partial

import httpx
import pytest

from tests.fake_vllm import BASE_KEY, compute_tokens
from tests.integration.serving import scenarios
from tests.integration.serving.conftest import BASE_MODEL, Stage, build_canary, open_stage
from tests.integration.serving.scenarios import ALIAS, Answer, Scene, Speaker, stream

TOKENS = 8
PROMPTS = tuple((number, 3, 7) for number in range(8))
HELLO = (1, 2, 3)


def speak(weights: str, prompt: scenarios.Prompt) -> list[int]:
    return compute_tokens(weights, prompt, TOKENS)


@pytest.fixture
def scene(stage: Stage, client: httpx.Client, tenant: str) -> Scene:
    """Two live versions; the alias points to the first."""
    first = stage.publish(client, tenant, "one", ALIAS)
    second = stage.publish(client, tenant, "two")
    for version_id in (first, second):
        stage.wait_for(client, version_id, "live")
    stage.vllm.state.token_seconds = 0.002
    speakers: dict[str, Speaker] = {
        name: partial(speak, weights)
        for name, weights in ((first, "one"), (second, "two"), (BASE_MODEL, BASE_KEY))
    }
    return Scene(client, stage.vllm, (first, second), speakers, PROMPTS, TOKENS, 0.02)


def test_switching_and_rolling_back_under_load(scene: Scene) -> None:
    scenarios.switch_and_roll_back(scene, 500)


def test_versions_and_base_answer_together(scene: Scene) -> None:
    scenarios.answer_together(scene)


def test_a_failed_canary_under_load_leaves_the_alias_unchanged(
    stage: Stage, client: httpx.Client, tenant: str, scene: Scene
) -> None:
    scenarios.fail_a_canary(
        scene, lambda: stage.publish(client, tenant, "three", ALIAS, build_canary("something else"))
    )


def test_requests_after_a_switch_get_the_new_version(scene: Scene) -> None:
    for version_id in scene.versions * 5:
        scene.client.post(f"/v1/aliases/{ALIAS}/promote", json={"version": version_id})
        assert scene.ask(ALIAS, 0).version == version_id


def test_a_stream_keeps_its_version_while_the_alias_moves(stage: Stage, scene: Scene) -> None:
    first, second = scene.versions
    stage.vllm.state.token_seconds = 0.1
    results: list[Answer] = []
    thread = threading.Thread(target=lambda: results.append(scene.ask(ALIAS, 0)))
    thread.start()
    time.sleep(0.3)
    scene.client.post(f"/v1/aliases/{ALIAS}/promote", json={"version": second})
    scene.client.post(f"/v1/versions/{first}/retire")
    thread.join(30)
    scene.check(results)
    assert [answer.version for answer in results] == [first]


def test_a_server_killed_under_load_comes_back(stage: Stage, scene: Scene) -> None:
    loads_before = stage.vllm.state.count("/v1/load_lora_adapter")
    scenarios.survive_a_kill(scene)
    assert stage.vllm.state.count("/v1/load_lora_adapter") == loads_before + 2


def test_lost_adapters_are_loaded_again_and_unknown_ones_unloaded(
    stage: Stage, client: httpx.Client, scene: Scene
) -> None:
    state = stage.vllm.state
    state.adapters.pop(next(iter(state.adapters)))
    state.adapters["somebody's"] = "three"
    deadline = time.monotonic() + 30
    while sorted(state.adapters.values()) != ["one", "two"]:
        assert time.monotonic() < deadline, state.adapters
        time.sleep(0.02)
    for version_id in scene.versions:
        stage.wait_for(client, version_id, "live")
    scene.check([scene.ask(ALIAS, 0)])


def test_no_traffic_before_the_canary_has_passed_again(
    stage: Stage, client: httpx.Client, scene: Scene
) -> None:
    """A server that comes back with other answers never answers for the version."""
    stage.vllm.kill()
    stage.vllm.state.says_wrong_tokens = True
    stage.vllm.restart()
    deadline = time.monotonic() + 30
    version = {"error": None}
    while version["error"] is None:
        assert time.monotonic() < deadline
        version = client.get(f"/v1/versions/{scene.versions[0]}").json()
        assert stream(client, ALIAS, HELLO, 2).status == 503
    assert version["status"] == "unavailable"
    assert "differs" in version["error"]
    assert client.get(f"/v1/aliases/{ALIAS}").json()["version"] == scene.versions[0]
    stage.vllm.state.says_wrong_tokens = False
    stage.wait_for(client, scene.versions[0], "live")


def test_a_stale_look_up_of_another_process_reaches_no_unchecked_version(
    stage: Stage, client: httpx.Client, tenant: str, scene: Scene
) -> None:
    """Another API process still uses what it looked up before the server restarted."""
    changes = {"reconciler_enabled": False, "routing_seconds": 5.0}
    with (
        open_stage(stage.database, stage.settings, stage.vllm, **changes) as other,
        other.connect(tenant, "infer") as stale,
    ):
        assert stream(stale, ALIAS, HELLO, 2).status == 200
        stage.vllm.state.token_seconds = 0.05  # a slow canary
        stage.vllm.state.says_wrong_tokens = True
        stage.vllm.state.lose_adapters()
        deadline = time.monotonic() + 30
        while not stage.vllm.state.adapters:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert stream(stale, ALIAS, HELLO, 2).status == 503
        stage.vllm.state.says_wrong_tokens = False


def test_a_broken_stream_is_retried_only_before_its_first_event(
    stage: Stage, client: httpx.Client, scene: Scene
) -> None:
    stage.vllm.state.breaks_after = 0
    answer = stream(client, ALIAS, HELLO, 4)
    assert (answer.status, answer.is_whole) == (200, True)
    stage.vllm.state.breaks_after = 2
    answer = stream(client, ALIAS, HELLO, 4)
    assert (answer.status, answer.is_whole, len(answer.tokens)) == (200, False, 2)
    assert answer.error is not None
    wait_for_metric(client, f'outcome="broken",version="{scene.versions[0]}"}} 1.0')
    wait_for_metric(client, f'excise_gateway_retries_total{{version="{scene.versions[0]}"}} 1.0')


def test_a_client_that_leaves_frees_the_server(
    stage: Stage, client: httpx.Client, scene: Scene
) -> None:
    stage.vllm.state.token_seconds = 0.05
    body = {"model": ALIAS, "prompt": "hello", "max_tokens": 200, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_lines())
    wait_for_metric(client, f'outcome="left",version="{scene.versions[0]}"}} 1.0')


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_client_that_leaves_before_the_answer_ends_the_request(
    stage: Stage, client: httpx.Client, scene: Scene, is_stream: bool
) -> None:
    """Nothing has arrived yet: of a whole answer, or of a stream in the server's queue."""
    stage.vllm.state.token_seconds = 0.1
    stage.vllm.state.queue_seconds = 20.0 if is_stream else 0.0
    body = {"model": ALIAS, "prompt": "hello", "max_tokens": 200, "stream": is_stream}
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/completions", json=body, timeout=0.5)
    wait_for_metric(client, f'outcome="left",version="{scene.versions[0]}"}} 1.0')
    deadline = time.monotonic() + 10
    while stage.vllm.state.abandoned < 1:
        assert time.monotonic() < deadline, "the server went on without the client"
        time.sleep(0.02)
    assert f'outcome="ok",version="{scene.versions[0]}"}}' not in client.get("/metrics").text


def wait_for_metric(client: httpx.Client, line: str) -> None:
    """Return once the metrics show it, which takes a moment after the client saw the end."""
    deadline = time.monotonic() + 10
    while line not in client.get("/metrics").text:
        assert time.monotonic() < deadline, line
        time.sleep(0.05)
