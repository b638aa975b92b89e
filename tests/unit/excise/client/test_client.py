from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from excise.client.jobs import (
    ApiError,
    ClientError,
    ConnectionLostError,
    DownloadError,
    ExciseClient,
    build_set_name,
)
from excise.resources.jobs import ArtifactView
from tests.unit.excise.cli.fake_service import FakeService, serve

SPEC = {"kind": "correction", "model": "m"}


def test_the_same_job_comes_back_when_the_answer_was_unavailable(
    client: ExciseClient, service: FakeService
) -> None:
    service.unavailable = 2
    assert client.create_job(SPEC).id == "job_1"
    assert len(service.jobs) == 1


def test_a_lost_answer_does_not_make_a_second_job() -> None:
    keys: list[str] = []

    def handle(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["idempotency-key"])
        raise httpx.ReadError("connection reset", request=request)

    client = ExciseClient("http://x", patience_seconds=0.5, transport=httpx.MockTransport(handle))
    with pytest.raises(ConnectionLostError, match="connection reset"):
        client.create_job(SPEC)
    assert len(keys) > 1
    assert len(set(keys)) == 1


def test_errors_carry_what_the_service_said(client: ExciseClient) -> None:
    with pytest.raises(ApiError) as caught:
        client.create_job({"kind": "x"})
    error = caught.value
    assert (error.code, error.param, error.status) == ("invalid_request", "kind", 422)


@pytest.mark.parametrize(
    "body", [b"<html>Bad gateway", b"[]", b'{"error": "x"}', b"\xff", b'{"error": {"code": 1}}']
)
def test_answers_that_are_no_problem_are_errors_all_the_same(body: bytes) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(418, content=body))
    with pytest.raises(ApiError, match="418"):
        ExciseClient("http://x", transport=transport).get_job("j")


@pytest.mark.parametrize("body", [b"hello", b"{}", b'{"id": 3}'])
def test_answers_of_something_else_are_no_job(body: bytes) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=body))
    with pytest.raises(ClientError, match="no Job"):
        ExciseClient("http://x", transport=transport).get_job("j")


def test_ids_do_not_escape_their_place_in_the_path() -> None:
    seen: list[bytes] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path)
        return httpx.Response(404)

    with pytest.raises(ApiError):
        ExciseClient("http://x", transport=httpx.MockTransport(handle)).get_job("../keys?x=1")
    assert seen == [b"/v1/jobs/..%2Fkeys%3Fx%3D1"]


def test_events_resume_where_the_stream_broke(client: ExciseClient, service: FakeService) -> None:
    job = client.create_job(SPEC)
    service.drop_stream_after = 2
    events = [event.id for event in client.iter_events(job.id)]
    assert events == [1, 2, 3, 4, 5, 6]
    assert service.resumed_from == ["0", "2", "4", "6"]


def test_events_resume_across_a_restart_of_the_service() -> None:
    service = FakeService()
    service.drop_stream_after = 3
    seen: list[int] = []
    with ExitStack() as first:
        url = first.enter_context(serve(service))
        with ExciseClient(url, "exc_test", patience_seconds=20) as client:
            events = client.iter_events(client.create_job(SPEC).id)
            seen.extend(next(events).id for _ in range(3))
            first.close()
            reader = threading.Thread(target=lambda: seen.extend(event.id for event in events))
            reader.start()
            with serve(service, int(url.rsplit(":", 1)[1])):
                reader.join(20)
    assert seen == [1, 2, 3, 4, 5, 6]


def test_a_service_that_stays_away_is_given_up(url: str) -> None:
    with (
        ExciseClient("http://127.0.0.1:9", "exc_test", patience_seconds=0.5) as client,
        pytest.raises(ConnectionLostError, match="excise up"),
    ):
        list(client.iter_events("job_1"))


def test_events_of_an_unknown_key_are_refused_at_once(url: str) -> None:
    with (
        ExciseClient(url, "exc_other", patience_seconds=60) as client,
        pytest.raises(ApiError, match="unknown"),
    ):
        list(client.iter_events("job_1"))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "..", "", "a\\b", "a\0b"])
def test_a_listed_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    artifact = ArtifactView(name=name, sha256="0", bytes=1, media_type="x/y")
    with pytest.raises(DownloadError, match="no file name"):
        ExciseClient("http://x").download_artifact("job_1", artifact, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_download_leaves_the_old_file_and_nothing_else(
    client: ExciseClient, service: FakeService, tmp_path: Path
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
    client: ExciseClient, service: FakeService, tmp_path: Path
) -> None:
    for name in ("é some/-prompts.txt".replace("/", ""), "p.jsonl"):
        (tmp_path / name).write_text("x\n")
        client.upload_prompt_set(tmp_path / name)
    kinds = [kind for _, kind, _ in service.uploads]
    assert kinds == ["text/plain", "application/jsonl"]


@pytest.mark.parametrize("stem", ["é", "   ", "a" * 200, "..."])
def test_set_names_are_always_acceptable(stem: str) -> None:
    name = build_set_name(Path(f"{stem}.txt"))
    assert 1 <= len(name) <= 64
    assert name.isascii()


def test_a_missing_prompt_file_is_a_client_error(client: ExciseClient, tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="cannot be read"):
        client.upload_prompt_set(tmp_path / "none.txt")


@pytest.mark.parametrize("key", ["a\nb", "ключ", "two words"])
def test_a_malformed_key_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ClientError) as caught:
        ExciseClient("http://127.0.0.1:9", key)
    assert key not in caught.value.message
