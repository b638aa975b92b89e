"""Under load: aliases switch and roll back unnoticed, a server that dies does little harm."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import httpx
import pytest

from tests.fake_vllm import find_speaker, find_speakers
from tests.integration.serving.conftest import Stage, open_stage
from tests.integration.serving.scenarios import Answer, Load, check_unmixed, stream

ALIAS = "tiny@production"
TOKENS = 8


@pytest.fixture
def two_versions(stage: Stage, client: httpx.Client, tenant: str) -> tuple[str, str]:
    """Two live versions; the alias points at the first."""
    first = stage.publish(client, tenant, "one", ALIAS)
    second = stage.publish(client, tenant, "two")
    for version_id in (first, second):
        stage.wait_for(client, version_id, "live")
    stage.vllm.state.token_seconds = 0.002
    return first, second


def says(weights: str) -> Callable[[str], bool]:
    return lambda text: find_speakers(text) == {find_speaker(weights)}


def test_switching_and_rolling_back_under_load(
    client: httpx.Client, two_versions: tuple[str, str]
) -> None:
    """16 streams, 500 requests, the alias moving all the time: none fails, none is mixed."""
    first, second = two_versions

    def switch(load: Load) -> None:
        for done in range(40, 480, 40):
            load.wait_for(done)
            body = {"version": second}
            answer = client.post(f"/v1/aliases/{ALIAS}/promote", json=body)
            assert answer.json()["version"] == second
            load.wait_for(done + 20)
            assert client.post(f"/v1/aliases/{ALIAS}/rollback").json()["version"] == first

    load = Load(lambda _: stream(client, ALIAS, "hello", TOKENS), 500)
    answers = load.run(switch)
    assert len(answers) == 500
    check_unmixed(answers, {first: says("one"), second: says("two")})
    shares = Counter(answer.version for answer in answers)
    assert min(shares[first], shares[second]) >= 50


def test_what_asks_after_a_switch_gets_the_new_version(
    client: httpx.Client, two_versions: tuple[str, str]
) -> None:
    for version_id in two_versions * 5:
        client.post(f"/v1/aliases/{ALIAS}/promote", json={"version": version_id})
        assert stream(client, ALIAS, "hello", 1).version == version_id


def test_a_stream_keeps_its_version_while_the_alias_moves(
    stage: Stage, client: httpx.Client, two_versions: tuple[str, str]
) -> None:
    first, second = two_versions
    stage.vllm.state.token_seconds = 0.05
    results: list[Answer] = []
    thread = threading.Thread(target=lambda: results.append(stream(client, ALIAS, "hello", 20)))
    thread.start()
    time.sleep(0.3)
    client.post(f"/v1/aliases/{ALIAS}/promote", json={"version": second})
    client.post(f"/v1/versions/{first}/retire")
    thread.join(30)
    check_unmixed(results, {first: says("one")})
    assert len(results[0].text.split()) == 20


def test_a_server_killed_under_load_comes_back(
    stage: Stage, client: httpx.Client, two_versions: tuple[str, str]
) -> None:
    """Nothing hangs, nothing is wrong; afterwards every adapter is back, its canary run again."""
    first, second = two_versions
    loads_before = stage.vllm.state.count("/v1/load_lora_adapter")

    def kill(load: Load) -> None:
        load.wait_for(60)
        stage.vllm.kill()
        load.wait_for(160)
        stage.vllm.restart()
        for version_id in two_versions:
            stage.wait_for(client, version_id, "live")

    def ask(number: int) -> Answer:
        answer = stream(client, (ALIAS, second)[number % 2], "hello", TOKENS)
        if answer.status != 200:
            time.sleep(0.02)
        return answer

    answers = Load(ask, 400).run(kill)
    by_status = Counter(answer.status for answer in answers)
    assert set(by_status) <= {200, 503}
    assert by_status[503] > 0
    assert all(int(a.retry_after or 0) >= 1 for a in answers if a.status == 503)
    whole = [answer for answer in answers if answer.is_whole]
    check_unmixed(whole, {first: says("one"), second: says("two")})
    cut = [a for a in answers if a.status == 200 and not a.is_whole]
    assert all(a.error and "went away" in a.error for a in cut)
    assert len(cut) <= 16  # those that were being streamed

    check_unmixed([stream(client, ALIAS, "hello", 2)], {first: says("one")})
    assert stage.vllm.state.count("/v1/load_lora_adapter") == loads_before + 2
    for version_id in two_versions:
        events = client.get(f"/v1/versions/{version_id}/events").json()["data"]
        assert [event["kind"] for event in events][-2:] == ["unavailable", "canary"]


def test_lost_adapters_are_loaded_again_and_unknown_ones_unloaded(
    stage: Stage, client: httpx.Client, two_versions: tuple[str, str]
) -> None:
    state = stage.vllm.state
    state.adapters.pop(next(iter(state.adapters)))
    state.adapters["somebody's"] = "three"
    deadline = time.monotonic() + 30
    while sorted(state.adapters.values()) != ["one", "two"]:
        assert time.monotonic() < deadline, state.adapters
        time.sleep(0.02)
    for version_id in two_versions:
        stage.wait_for(client, version_id, "live")
    check_unmixed([stream(client, ALIAS, "hello", 2)], {two_versions[0]: says("one")})


def test_no_traffic_before_the_canary_has_passed_again(
    stage: Stage, client: httpx.Client, two_versions: tuple[str, str]
) -> None:
    """A server that comes back with other answers never answers for the version."""
    stage.vllm.kill()
    stage.vllm.state.says_wrong_tokens = True
    stage.vllm.restart()
    deadline = time.monotonic() + 30
    version = {"error": None}
    while version["error"] is None:
        assert time.monotonic() < deadline
        version = client.get(f"/v1/versions/{two_versions[0]}").json()
        assert stream(client, ALIAS, "hello", 2).status == 503
    assert version["status"] == "unavailable"
    assert "differs" in version["error"]
    assert client.get(f"/v1/aliases/{ALIAS}").json()["version"] == two_versions[0]
    stage.vllm.state.says_wrong_tokens = False
    stage.wait_for(client, two_versions[0], "live")


def test_a_stale_look_up_of_another_process_reaches_no_unchecked_version(
    stage: Stage, client: httpx.Client, tenant: str, two_versions: tuple[str, str]
) -> None:
    """Another API process still goes by what it looked up before the server restarted."""
    changes = {"reconciler_enabled": False, "routing_seconds": 5.0}
    with (
        open_stage(stage.database, stage.settings, stage.vllm, **changes) as other,
        other.connect(tenant, "infer") as stale,
    ):
        assert stream(stale, ALIAS, "hello", 2).status == 200
        stage.vllm.state.token_seconds = 0.05  # the canary takes its time
        stage.vllm.state.says_wrong_tokens = True
        stage.vllm.state.lose_adapters()
        deadline = time.monotonic() + 30
        while not stage.vllm.state.adapters:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert stream(stale, ALIAS, "hello", 2).status == 503
        stage.vllm.state.says_wrong_tokens = False


def test_a_broken_stream_is_retried_only_before_its_first_event(
    stage: Stage, client: httpx.Client, two_versions: tuple[str, str]
) -> None:
    stage.vllm.state.breaks_after = 0
    answer = stream(client, ALIAS, "hello", 4)
    assert (answer.status, answer.is_whole) == (200, True)
    stage.vllm.state.breaks_after = 2
    answer = stream(client, ALIAS, "hello", 4)
    assert (answer.status, answer.is_whole, len(answer.text.split())) == (200, False, 2)
    assert answer.error is not None
    metrics = client.get("/metrics").text
    assert f'outcome="broken",version="{two_versions[0]}"}} 1.0' in metrics
    assert f'excise_gateway_retries_total{{version="{two_versions[0]}"}} 1.0' in metrics


def test_a_client_that_leaves_frees_the_server(
    stage: Stage, client: httpx.Client, two_versions: tuple[str, str]
) -> None:
    stage.vllm.state.token_seconds = 0.05
    body = {"model": ALIAS, "prompt": "hello", "max_tokens": 200, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_lines())
    deadline = time.monotonic() + 5
    left = f'outcome="left",version="{two_versions[0]}"}} 1.0'
    while left not in client.get("/metrics").text:
        assert time.monotonic() < deadline, "the stream went on without its client"
        time.sleep(0.05)
