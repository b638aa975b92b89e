"""Both clients: what they send, what they wait for, and what they make of answers."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from excise.client import (
    ApiError,
    AsyncClient,
    Client,
    ClientError,
    ConnectionLostError,
    DownloadError,
    build_set_name,
    retrying,
    serving_calls,
)
from excise.estimates.machine import USUAL_MACHINE
from excise.resources.jobs import ArtifactView
from excise.specs import CorrectionSpec
from tests.unit.excise.cli.fake_service import FakeService, serve
from tests.unit.excise.client.clients import AwaitedClient

SPEC = {"kind": "correction", "model": "m"}
Connect = Callable[..., Client]
"""Opens one of the two clients; it is closed when the test ends."""


@pytest.fixture(params=[Client, AwaitedClient], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    with ExitStack() as opened:
        yield lambda *arguments, **options: opened.enter_context(
            request.param(*arguments, **options)
        )


@pytest.fixture
def client(url: str, connect: Connect) -> Client:
    return connect(url, "exc_test")


def test_the_same_job_comes_back_when_the_answer_was_unavailable(
    client: Client, service: FakeService
) -> None:
    service.unavailable = 2
    assert client.create_job(SPEC).id == "job_1"
    assert len(service.jobs) == 1


def test_a_lost_answer_does_not_make_a_second_job(connect: Connect) -> None:
    keys: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        raise httpx.ReadError("connection reset", request=request)

    client = connect("http://x", patience_seconds=0.5, transport=httpx.MockTransport(handle))
    with pytest.raises(ConnectionLostError, match="connection reset"):
        client.create_job(SPEC)
    assert len(keys) > 1
    assert len(set(keys)) == 1


def test_errors_carry_what_the_service_said(client: Client) -> None:
    with pytest.raises(ApiError) as caught:
        client.create_job({"kind": "x"})
    error = caught.value
    assert (error.code, error.param, error.status) == ("invalid_request", "kind", 422)


@pytest.mark.parametrize(
    "body", [b"<html>Bad gateway", b"[]", b'{"error": "x"}', b"\xff", b'{"error": {"code": 1}}']
)
def test_answers_that_are_no_problem_are_errors_all_the_same(connect: Connect, body: bytes) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(418, content=body))
    with pytest.raises(ApiError, match="418"):
        connect("http://x", transport=transport).get_job("j")


@pytest.mark.parametrize("body", [b"hello", b"{}", b'{"id": 3}'])
def test_answers_of_something_else_are_no_job(connect: Connect, body: bytes) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=body))
    with pytest.raises(ClientError, match="not a valid Job"):
        connect("http://x", transport=transport).get_job("j")


def test_an_estimate_may_be_for_a_machine_of_ones_own(client: Client, service: FakeService) -> None:
    found = client.estimate_job(SPEC, machine=USUAL_MACHINE)
    assert (found.fits, found.data[0].workers) == (True, 2)
    assert service.estimated[0]["machine"]["host_bytes"] == USUAL_MACHINE.host_bytes
    client.estimate_job(SPEC)
    assert "machine" not in service.estimated[1]


def test_ids_do_not_escape_their_place_in_the_path(connect: Connect) -> None:
    seen: list[bytes] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path)
        return httpx.Response(404)

    with pytest.raises(ApiError):
        connect("http://x", transport=httpx.MockTransport(handle)).get_job("../keys?x=1")
    assert seen == [b"/v1/jobs/..%2Fkeys%3Fx%3D1"]


def test_events_resume_where_the_stream_broke(client: Client, service: FakeService) -> None:
    job = client.create_job(SPEC)
    service.drop_stream_after = 2
    events = [event.id for event in client.iter_events(job.id)]
    assert events == [1, 2, 3, 4, 5, 6]
    assert service.resumed_from == ["0", "2", "4", "6"]


def test_events_resume_across_a_restart_of_the_service(connect: Connect) -> None:
    service = FakeService()
    service.drop_stream_after = 3
    seen: list[int] = []
    with ExitStack() as first:
        url = first.enter_context(serve(service))
        client = connect(url, "exc_test", patience_seconds=20)
        events = client.iter_events(client.create_job(SPEC).id)
        seen.extend(next(events).id for _ in range(3))
        first.close()
        reader = threading.Thread(target=lambda: seen.extend(event.id for event in events))
        reader.start()
        with serve(service, int(url.rsplit(":", 1)[1])):
            reader.join(20)
    assert seen == [1, 2, 3, 4, 5, 6]


def test_a_service_that_stays_away_is_given_up(connect: Connect, url: str) -> None:
    client = connect("http://127.0.0.1:9", "exc_test", patience_seconds=0.5)
    with pytest.raises(ConnectionLostError, match="excise up"):
        list(client.iter_events("job_1"))


def test_events_end_with_a_clear_error_when_the_client_is_closed(
    client: Client, service: FakeService
) -> None:
    service.drop_stream_after = 2
    events = client.iter_events(client.create_job(SPEC).id)
    next(events)
    client.close()
    with pytest.raises(ConnectionLostError, match="was closed"):
        list(events)


def test_events_of_an_unknown_key_are_refused_at_once(connect: Connect, url: str) -> None:
    client = connect(url, "exc_other", patience_seconds=60)
    with pytest.raises(ApiError, match="unknown"):
        list(client.iter_events("job_1"))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "..", "", "a\\b", "a\0b"])
def test_a_listed_name_that_is_a_path_is_refused(
    connect: Connect, tmp_path: Path, name: str
) -> None:
    artifact = ArtifactView(name=name, sha256="0", bytes=1, media_type="x/y")
    with pytest.raises(DownloadError, match="not a file name"):
        connect("http://x").download_artifact("job_1", artifact, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_download_leaves_the_old_file_and_nothing_else(
    client: Client, service: FakeService, tmp_path: Path
) -> None:
    job = client.create_job(SPEC)
    client.get_job(job.id)
    job = client.get_job(job.id)
    client.download_artifacts(job, tmp_path)
    before = (tmp_path / "report.md").read_bytes()
    service.corrupt = "report.md"
    with pytest.raises(DownloadError, match="SHA-256"):
        client.download_artifacts(job, tmp_path)
    assert (tmp_path / "report.md").read_bytes() == before
    assert not list(tmp_path.glob(".*"))


def test_prompts_are_sent_as_what_they_are(
    client: Client, service: FakeService, tmp_path: Path
) -> None:
    for name in ("é some/-prompts.txt".replace("/", ""), "p.jsonl", "P.NDJSON"):
        (tmp_path / name).write_text("x\n")
        client.upload_prompt_set(tmp_path / name)
    kinds = [kind for _, kind, _ in service.uploads]
    assert kinds == ["text/plain", "application/jsonl", "application/jsonl"]


@pytest.mark.parametrize("stem", ["é", "   ", "a" * 200, "..."])
def test_set_names_are_always_acceptable(stem: str) -> None:
    name = build_set_name(Path(f"{stem}.txt"))
    assert 1 <= len(name) <= 64
    assert name.isascii()


def test_a_missing_prompt_file_is_a_client_error(client: Client, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="cannot be read"):
        client.upload_prompt_set(tmp_path / "none.txt")


@pytest.mark.parametrize("key", ["a\nb", "ключ", "two words"])
def test_a_malformed_key_is_refused_and_not_shown(connect: Connect, key: str) -> None:
    with pytest.raises(ClientError) as caught:
        connect("http://127.0.0.1:9", key)
    assert key not in caught.value.message


def list_methods(of: type) -> dict[str, list[str]]:
    """Public method → its parameters."""
    return {
        name: [str(one) for one in inspect.signature(method).parameters.values()]
        for name, method in inspect.getmembers(of, inspect.isfunction)
        if not name.startswith("_")
    }


def test_both_clients_have_the_same_methods() -> None:
    assert list_methods(Client) == list_methods(AsyncClient)
    assert len(list_methods(Client)) > 20


VERSION: dict[str, Any] = {
    **dict.fromkeys(("error", "override", "alias", "rank", "canary_sha256")),
    **dict.fromkeys(("built_at", "live_at", "ended_at")),
    "id": "mv_1",
    "job": "job_1",
    "kind": "adapter",
    "base_model": "m",
    "pool": "main",
    "status": "queued",
    "verdict": "passed",
    "files": [],
    "created_at": "2026-01-01T00:00:00Z",
}
ALIAS: dict[str, Any] = {
    **dict.fromkeys(("previous", "split")),
    "name": "m@production",
    "version": "mv_1",
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
}


class Script:
    """Answers in order, the last of them for ever; and what was asked."""

    def __init__(self, *answers: httpx.Response) -> None:
        self._answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def test_a_publication_is_made_once_however_often_it_is_asked_for(connect: Connect) -> None:
    script = Script(httpx.Response(503), httpx.Response(200, json=VERSION))
    client = connect("http://x", transport=httpx.MockTransport(script))
    assert client.publish("job_1", alias="m@production").id == "mv_1"
    keys = {request.headers["idempotency-key"] for request in script.asked}
    assert (len(script.asked), len(keys)) == (2, 1)


def test_a_rollback_is_sent_once(connect: Connect) -> None:
    script = Script(httpx.Response(503))
    client = connect("http://x", transport=httpx.MockTransport(script))
    with pytest.raises(ApiError, match="503"):
        client.roll_back("m@production")
    assert len(script.asked) == 1


def test_the_pause_that_the_service_asks_for_is_made(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrying, "_FIRST_PAUSE_SECONDS", 0.0)
    script = Script(
        httpx.Response(503, headers={"Retry-After": "1"}), httpx.Response(200, json=ALIAS)
    )
    client = connect("http://x", transport=httpx.MockTransport(script))
    start = time.monotonic()
    assert client.find_alias_target("m@production") == "mv_1"
    assert time.monotonic() - start >= 0.9


def test_an_alias_that_is_not_there_has_no_target(connect: Connect) -> None:
    client = connect("http://x", transport=httpx.MockTransport(Script(httpx.Response(404))))
    assert client.find_alias_target("m@production") is None
    client = connect("http://x", transport=httpx.MockTransport(Script(httpx.Response(403))))
    with pytest.raises(ApiError, match="403"):
        client.find_alias_target("m@production")


def test_a_version_is_waited_for_and_its_changes_told(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving_calls, "POLL_SECONDS", 0.0)
    statuses = ["queued", "building", "building", "live"]
    answers = [httpx.Response(200, json=VERSION | {"status": status}) for status in statuses]
    client = connect("http://x", transport=httpx.MockTransport(Script(*answers)))
    told: list[str] = []
    found = client.wait_until_settled("mv_1", lambda version: told.append(version.status))
    assert found.status == "live"
    assert told == ["queued", "building", "live"]


def test_every_page_of_prompt_sets_is_turned(client: Client, service: FakeService) -> None:
    for number in range(5):
        service.hold(f"set {number}", "text", b"x")
    assert [one.name for one in client.iter_prompt_sets()] == [
        f"set {number}" for number in (4, 3, 2, 1, 0)
    ]


def test_every_page_of_the_audit_log_is_turned(client: Client, service: FakeService) -> None:
    service.changes = ["job.submit", "key.create", "job.submit", "job.submit", "job.cancel"]
    assert [entry.id for entry in client.audit()] == [1, 2, 3, 4, 5]
    assert [entry.id for entry in client.audit(after=1, action="job.submit")] == [3, 4]
    assert list(client.audit(after=5)) == []


def test_what_is_deleted_is_named_by_its_path(client: Client, service: FakeService) -> None:
    client.delete_prompt_set("ps_1")
    client.delete_job("job_1")
    client.delete_artifacts("job_2")
    assert service.deleted == ["prompt-sets/ps_1", "jobs/job_1", "jobs/job_2/artifacts"]


def test_cancelling_what_is_cancelled_is_no_error(client: Client, service: FakeService) -> None:
    job = client.create_job(SPEC)
    assert client.cancel_job(job.id).status == "cancelled"
    conflict = {"error": {"code": "conflict", "message": "It has ended."}}
    for status in ("cancelled", "failed"):
        ended = job.model_dump(mode="json") | {"status": status}
        answers = httpx.Response(409, json=conflict), httpx.Response(200, json=ended)
        other = type(client)("http://x", transport=httpx.MockTransport(Script(*answers)))
        with other:
            if status == "cancelled":
                assert other.cancel_job(job.id).status == "cancelled"
            else:
                with pytest.raises(ApiError, match="has ended"):
                    other.cancel_job(job.id)


def test_a_spec_is_sent_as_its_json(client: Client, service: FakeService) -> None:
    behaviour = {"name": "r", "kind": "repetition", "prompts": "ps_1"}
    document = {"kind": "correction", "model": "m", "behaviours": [behaviour], "reference": "ps_2"}
    spec = CorrectionSpec.model_validate(document)
    assert client.create_job(spec).id == "job_1"
    assert CorrectionSpec.model_validate(service.specs[0]) == spec


def test_an_address_that_is_none_is_said_at_once(connect: Connect) -> None:
    with pytest.raises(ClientError, match="not an http:// or https:// URL"):
        connect("example").get_job("job_1")
    with pytest.raises(ClientError, match="malformed"):
        connect("http://[::1")
