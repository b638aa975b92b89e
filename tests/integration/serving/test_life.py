"""A version's life: published, built, canary, live, promoted, rolled back, retired."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.orm import Session

from service.database import Database
from service.errors import StoreUnavailableError
from service.keys.operations import revoke_key
from service.models import Job, ModelVersion
from service.serving import convergence
from service.serving.aliases import promote
from service.serving.folders import place_files
from service.serving.versions import get_version
from tests.fake_vllm import find_speaker, find_speakers
from tests.integration.service.test_races import GUARD_SECONDS, until_blocked
from tests.integration.serving.conftest import Stage, build_canary

ALIAS = "tiny@production"


def ask(client: httpx.Client, model: str, **changes: object) -> httpx.Response:
    body = {"model": model, "prompt": "hello", "max_tokens": 4, **changes}
    return client.post("/v1/completions", json=body)


def find_text(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["text"])


def list_kinds(client: httpx.Client, path: str) -> list[str]:
    return [event["kind"] for event in client.get(f"{path}/events").json()["data"]]


def test_publish_canary_promote_and_roll_back(
    stage: Stage, client: httpx.Client, tenant: str
) -> None:
    first = stage.publish(client, tenant, "one", ALIAS)
    version = stage.wait_for(client, first, "live")
    assert version["rank"] == 4
    assert [file["name"] for file in version["files"]] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    answer = ask(client, ALIAS)
    assert find_speakers(find_text(answer)) == {find_speaker("one")}
    assert answer.json()["model"] == answer.headers["x-excise-version"] == first

    second = stage.publish(client, tenant, "two")
    stage.wait_for(client, second, "live")
    assert find_speakers(find_text(ask(client, ALIAS))) == {find_speaker("one")}
    assert find_speakers(find_text(ask(client, second))) == {find_speaker("two")}

    body = {"version": second, "reason": "better"}
    promoted = client.post(f"/v1/aliases/{ALIAS}/promote", json=body).json()
    assert (promoted["version"], promoted["previous"]) == (second, first)
    assert find_speakers(find_text(ask(client, ALIAS))) == {find_speaker("two")}

    back = client.post(f"/v1/aliases/{ALIAS}/rollback", json={"reason": "worse"}).json()
    assert (back["version"], back["previous"]) == (first, None)
    assert find_speakers(find_text(ask(client, ALIAS))) == {find_speaker("one")}
    again = client.post(f"/v1/aliases/{ALIAS}/rollback")
    assert again.status_code == 409

    events = client.get(f"/v1/aliases/{ALIAS}/events").json()["data"]
    kinds = [event["kind"] for event in events]
    assert kinds == ["publish", "build", "canary", "promote", "promote", "rollback"]
    assert [event["reason"] for event in events[-2:]] == ["better", "worse"]
    assert all(event["by"].startswith("key_") for event in events[-2:])
    assert (events[-1]["from_version"], events[-1]["to_version"]) == (second, first)


def test_a_failed_canary_leaves_the_alias_unchanged(
    stage: Stage, client: httpx.Client, tenant: str
) -> None:
    first = stage.publish(client, tenant, "one", ALIAS)
    stage.wait_for(client, first, "live")
    job = stage.make_job(tenant)
    bad = client.post(f"/v1/models/{job}/publish", json={"alias": ALIAS}).json()["id"]
    stage.build(bad, "two", canary=build_canary("something else"))
    version = stage.wait_for(client, bad, "failed", "live")
    assert version["status"] == "failed"
    assert "differs" in version["error"]
    assert client.get(f"/v1/aliases/{ALIAS}").json()["version"] == first
    assert find_speakers(find_text(ask(client, ALIAS))) == {find_speaker("one")}
    assert ask(client, bad).status_code == 404
    assert list_kinds(client, f"/v1/versions/{bad}") == ["publish", "build", "canary"]
    refused = client.post(f"/v1/aliases/{ALIAS}/promote", json={"version": bad})
    assert refused.status_code == 409
    assert list(stage.vllm.state.adapters.values()) == ["one"]


def test_a_leak_between_base_and_adapter_fails_the_canary(
    stage: Stage, client: httpx.Client, tenant: str
) -> None:
    stage.vllm.state.leaks = True
    version_id = stage.publish(client, tenant, "one", ALIAS)
    version = stage.wait_for(client, version_id, "failed", "live")
    assert version["status"] == "failed"
    assert "the corrected model answered instead" in version["error"]
    assert client.get(f"/v1/aliases/{ALIAS}").status_code == 404


def test_an_outage_of_the_artifact_store_is_no_fault_of_the_version(
    stage: Stage, client: httpx.Client, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often its files cannot be read."""
    failures = iter([StoreUnavailableError("away")])

    def place(*arguments: Any) -> Path:
        for failure in failures:
            raise failure
        return place_files(*arguments)

    monkeypatch.setattr(convergence, "place_files", place)
    monkeypatch.setattr(convergence, "_MAX_TRIES", 1)
    version_id = stage.publish(client, tenant, "one", ALIAS)
    stage.wait_for(client, version_id, "live", "failed")
    assert client.get(f"/v1/versions/{version_id}").json()["status"] == "live"
    assert next(failures, None) is None


def test_publishing_twice_makes_one_version(
    stage: Stage, client: httpx.Client, tenant: str
) -> None:
    job = stage.make_job(tenant)
    headers = {"Idempotency-Key": "once"}
    first = client.post(f"/v1/models/{job}/publish", json={"alias": ALIAS}, headers=headers)
    again = client.post(f"/v1/models/{job}/publish", json={"alias": ALIAS}, headers=headers)
    plain = client.post(f"/v1/models/{job}/publish")
    other = client.post(f"/v1/models/{job}/publish", json={"alias": "a@b"}, headers=headers)
    assert [answer.status_code for answer in (first, again, plain, other)] == [202, 200, 200, 409]
    assert first.json()["id"] == again.json()["id"] == plain.json()["id"]
    assert first.headers["location"] == f"/v1/versions/{first.json()['id']}"


def test_a_rejected_correction_needs_an_admin_and_gets_no_alias(
    stage: Stage, client: httpx.Client, tenant: str
) -> None:
    job = stage.make_job(tenant, verdict="no_effect")
    path = f"/v1/models/{job}/publish"
    override = {"override": {"reason": "to look at it"}}
    assert client.post(path).status_code == 409
    assert client.post(path, json=override).status_code == 403
    with stage.connect(tenant, "admin") as admin:
        assert admin.post(path).status_code == 409
        assert admin.post(path, json={**override, "alias": ALIAS}).status_code == 409
        assert admin.post(path, json={"override": {"reason": " "}}).status_code == 422
        made = admin.post(path, json=override)
        assert made.status_code == 202, made.text
        version_id = made.json()["id"]
        assert made.json()["override"]["reason"] == "to look at it"
        stage.build(version_id, "one")
        stage.wait_for(client, version_id, "live")
        assert find_speakers(find_text(ask(client, version_id))) == {find_speaker("one")}
        for body in ({"version": version_id}, {"version": version_id, "reason": "please"}):
            refused = admin.post(f"/v1/aliases/{ALIAS}/promote", json=body)
            assert refused.status_code == 409
            assert "verdict is no_effect" in refused.json()["detail"]
        good = stage.publish(client, tenant, "two", ALIAS)
        stage.wait_for(client, good, "live")
        body = {"version": version_id, "percent": 10}
        assert admin.post(f"/v1/aliases/{ALIAS}/split", json=body).status_code == 409
    kinds = list_kinds(client, f"/v1/versions/{version_id}")
    assert kinds == ["override", "publish", "build", "canary"]


def test_jobs_that_cannot_be_published_are_rejected(
    stage: Stage, client: httpx.Client, tenant: str
) -> None:
    foreign = stage.make_job("somebody-else")
    other_base = stage.make_job(tenant, model="another")
    assert client.post(f"/v1/models/{foreign}/publish").status_code == 404
    assert client.post("/v1/models/tiny/publish").status_code == 404
    answer = client.post(f"/v1/models/{other_base}/publish")
    assert answer.status_code == 422
    assert "No serving pool holds the base 'another'" in answer.json()["detail"]
    with stage.connect(tenant, "submit", "infer") as weak:
        job = stage.make_job(tenant)
        assert weak.post(f"/v1/models/{job}/publish").status_code == 403


def test_one_slot_stays_free(stage: Stage, client: httpx.Client, tenant: str) -> None:
    made = [stage.publish(client, tenant, f"weights {number}") for number in range(3)]
    full = client.post(f"/v1/models/{stage.make_job(tenant)}/publish")
    assert full.status_code == 409
    assert full.json()["error"]["code"] == "pool_full"
    for version_id in made:
        stage.wait_for(client, version_id, "live")
    assert len(stage.vllm.state.adapters) == 3

    retired = client.post(f"/v1/versions/{made[0]}/retire", json={"reason": "old"})
    assert retired.json()["status"] == "retired"
    assert ask(client, made[0]).status_code == 404
    fourth = stage.publish(client, tenant, "weights 4")
    stage.wait_for(client, fourth, "live")
    assert sorted(stage.vllm.state.adapters.values()) == ["weights 1", "weights 2", "weights 4"]


def test_a_version_with_an_alias_is_not_retired(
    stage: Stage, client: httpx.Client, tenant: str
) -> None:
    version_id = stage.publish(client, tenant, "one", ALIAS)
    stage.wait_for(client, version_id, "live")
    refused = client.post(f"/v1/versions/{version_id}/retire")
    assert refused.status_code == 409
    assert ALIAS in refused.json()["detail"]


def test_a_split_shares_the_traffic(stage: Stage, client: httpx.Client, tenant: str) -> None:
    first = stage.publish(client, tenant, "one", ALIAS)
    second = stage.publish(client, tenant, "two")
    for version_id in (first, second):
        stage.wait_for(client, version_id, "live")
    path = f"/v1/aliases/{ALIAS}/split"
    assert client.post(path, json={"version": first, "percent": 5}).status_code == 409
    assert client.post(path, json={"percent": 5}).status_code == 422
    split = client.post(path, json={"version": second, "percent": 30, "reason": "try"}).json()
    assert split["split"] == {"version": second, "percent": 30}
    found = [ask(client, ALIAS).headers["x-excise-version"] for _ in range(200)]
    assert 25 <= found.count(second) <= 95  # 6 standard deviations around 60
    metrics = client.get("/metrics").text
    for version_id in (first, second):
        line = f'excise_gateway_requests_total{{outcome="ok",version="{version_id}"}}'
        assert f"{line} {float(found.count(version_id))}" in metrics
    assert ALIAS not in metrics
    back = client.post(f"/v1/aliases/{ALIAS}/rollback").json()
    assert (back["version"], back["split"]) == (first, None)


def test_a_passed_job_that_asked_for_it_is_published(
    stage: Stage, client: httpx.Client, tenant: str
) -> None:
    job = stage.make_job(tenant, publish_to=ALIAS)
    rejected = stage.make_job(tenant, verdict="rejected", publish_to="other@x")
    version = stage.wait_for_first(client)
    assert (version["job"], version["alias"]) == (job, ALIAS)
    stage.build(version["id"], "one")
    stage.wait_for(client, version["id"], "live")
    assert client.get(f"/v1/aliases/{ALIAS}").json()["version"] == version["id"]
    events = client.get(f"/v1/jobs/{job}/events").json()["data"]
    assert events[-1]["type"] == "publish.started"
    events = client.get(f"/v1/jobs/{rejected}/events").json()["data"]
    assert [event["type"] for event in events if "publish" in event["type"]] == []


def test_a_job_of_a_revoked_key_is_not_published(
    stage: Stage, client: httpx.Client, tenant: str, database: Database
) -> None:
    job = stage.make_job(tenant)
    with database.transaction() as session:
        found = session.get(Job, job)
        assert found is not None
        revoke_key(session, found.tenant_id, found.api_key_id)
        found.publish_to = ALIAS
    refused = client.get(f"/v1/jobs/{job}/events").json()["data"][-1]
    while refused["type"] != "publish.refused":
        refused = client.get(f"/v1/jobs/{job}/events").json()["data"][-1]
    assert "API key was revoked" in refused["message"]
    assert client.get("/v1/versions").json()["data"] == []


def test_files_are_downloaded_by_name(stage: Stage, client: httpx.Client, tenant: str) -> None:
    version_id = stage.publish(client, tenant, "one")
    path = f"/v1/versions/{version_id}/files"
    found = client.get(f"{path}/adapter_model.safetensors")
    assert found.content[8:] == b"one"
    known = {"If-None-Match": found.headers["ETag"]}
    again = client.get(f"{path}/adapter_model.safetensors", headers=known)
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["ETag"] == found.headers["ETag"]
    for name in ("nothing.json", "..%2f..%2fetc%2fpasswd", "%2e%2e"):
        assert client.get(f"{path}/{name}").status_code == 404
    with stage.connect("somebody-else", "submit") as stranger:
        assert stranger.get(f"{path}/adapter_model.safetensors").status_code == 404


@pytest.mark.parametrize("name", ["noat", "a@b@c", "@x", "x@", "a b@c", "mv_1@" + "x" * 40])
def test_names_that_aliases_must_not_have(stage: Stage, client: httpx.Client, name: str) -> None:
    body = {"version": "mv_" + "0" * 24}
    assert client.post(f"/v1/aliases/{name}/promote", json=body).status_code == 422


def test_every_change_is_in_the_audit_log(stage: Stage, client: httpx.Client, tenant: str) -> None:
    first = stage.publish(client, tenant, "one", ALIAS)
    stage.wait_for(client, first, "live")
    second = stage.publish(client, tenant, "two")
    stage.wait_for(client, second, "live")
    client.post(f"/v1/aliases/{ALIAS}/promote", json={"version": second, "reason": "better"})
    client.post(f"/v1/aliases/{ALIAS}/split", json={"version": first, "percent": 10})
    client.post(f"/v1/aliases/{ALIAS}/rollback")
    client.post(f"/v1/aliases/{ALIAS}/rollback", json={"reason": "worse"})
    client.post(f"/v1/versions/{second}/retire")
    with stage.connect(tenant, "admin") as admin:
        entries = admin.get("/v1/audit").json()["data"]
    found = [
        (entry["action"], entry["target"])
        for entry in entries
        if not entry["action"].startswith("key.")
    ]
    assert found == [
        ("version.publish", first),
        ("alias.promote", ALIAS),
        ("version.publish", second),
        ("alias.promote", ALIAS),
        ("alias.split", ALIAS),
        ("alias.rollback", ALIAS),
        ("alias.rollback", ALIAS),
        ("version.retire", second),
    ]
    by_service, promoted = (entry for entry in entries if entry["action"] == "alias.promote")
    assert (by_service["actor"], by_service["source"]) == ("service", None)
    assert by_service["data"]["asked_by"] == promoted["actor"]
    assert promoted["source"] == "127.0.0.1"
    assert promoted["data"]["reason"] == "better"
    assert (promoted["data"]["from"], promoted["data"]["version"]) == (first, second)


def test_a_repetition_that_changes_nothing_is_not_recorded(
    stage: Stage, client: httpx.Client, tenant: str
) -> None:
    job = stage.make_job(tenant)
    path, body = f"/v1/models/{job}/publish", {"alias": ALIAS}
    first, again = client.post(path, json=body), client.post(path, json=body)
    assert (first.status_code, again.status_code) == (202, 200)
    stage.build(first.json()["id"], "one")
    stage.wait_for(client, first.json()["id"], "live")
    second = stage.publish(client, tenant, "two")
    stage.wait_for(client, second, "live")
    for action, sent in [
        ("split", {"percent": 0}),
        ("split", {"version": second, "percent": 10}),
        ("split", {"version": second, "percent": 10}),
        ("promote", {"version": second}),
        ("promote", {"version": second}),
    ]:
        assert client.post(f"/v1/aliases/{ALIAS}/{action}", json=sent).status_code == 200
    kinds = ["publish", "build", "canary", "promote", "split", "promote"]
    assert list_kinds(client, f"/v1/aliases/{ALIAS}") == kinds
    with stage.connect(tenant, "admin") as admin:
        entries = admin.get("/v1/audit").json()["data"]
    found = [entry["action"] for entry in entries if not entry["action"].startswith("key.")]
    published = ["version.publish", "alias.promote", "version.publish"]
    assert found == [*published, "alias.split", "alias.promote"]


@pytest.mark.parametrize("way", ["promote", "publish"])
def test_an_alias_that_another_request_is_creating_is_waited_for_without_a_version(
    stage: Stage, client: httpx.Client, tenant: str, way: str
) -> None:
    """Whoever has the alias may wait for the version, as its retirement does."""
    first, second = stage.publish(client, tenant, "one"), stage.publish(client, tenant, "two")
    version = stage.wait_for(client, second, "live")
    stage.wait_for(client, first, "live")
    path, body = {
        "promote": (f"/v1/aliases/{ALIAS}/promote", {"version": second}),
        "publish": (f"/v1/models/{version['job']}/publish", {"alias": ALIAS}),
    }[way]
    with ThreadPoolExecutor(1) as pool:
        with stage.database.transaction() as session:
            tenant_id = find_version_tenant(session, first)
            promote(session, tenant_id, ALIAS, first, key_id=None)
            asked = pool.submit(client.post, path, json=body)
            until_blocked(stage.database, [asked])
            get_version(session, tenant_id, second, lock=True)
        assert asked.result(GUARD_SECONDS).status_code == 200
    alias = client.get(f"/v1/aliases/{ALIAS}").json()
    assert (alias["version"], alias["previous"]) == (second, first)


def find_version_tenant(session: Session, version_id: str) -> str:
    return session.get_one(ModelVersion, version_id).tenant_id
