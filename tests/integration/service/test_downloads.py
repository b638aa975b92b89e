"""Downloads: streamed from the store, whole or refused, and never blocking other requests."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from service.artifacts import LocalArtifactStore
from service.database import Database
from service.jobs.execution import attach_artifact, claim_job, finish_job
from service.settings import Settings
from tests.integration.service.conftest import submit
from tests.integration.service.test_server import serve

LARGE = bytes(range(256)) * 100_000
UNREAD = 12  # more than there are threads of either kind


def finish_with(
    client: TestClient, database: Database, settings: Settings, content: bytes
) -> tuple[str, str]:
    """Finish a job with `content` as its patch; return the job and the hash."""
    job_id = str(submit(client)["id"])
    sha256 = LocalArtifactStore(Path(settings.artifacts)).put_bytes(content)
    with database.transaction() as session:
        claim = claim_job(session, job_id, "w", 30)
        assert claim
        name, kind = "patch.safetensors", "application/octet-stream"
        attach_artifact(session, job_id, claim.token, name, sha256, len(content), kind)
        finish_job(session, job_id, claim.token, "rejected", "rejected")
    return job_id, sha256


def test_a_file_is_downloaded_whole(
    client: TestClient, database: Database, settings: Settings
) -> None:
    job_id, sha256 = finish_with(client, database, settings, LARGE)
    response = client.get(f"/v1/jobs/{job_id}/patch")
    assert response.content == LARGE
    assert response.headers["content-length"] == str(len(LARGE))
    assert response.headers["etag"] == f'"{sha256}"'
    known = client.get(f"/v1/jobs/{job_id}/patch", headers={"If-None-Match": f'"{sha256}"'})
    assert (known.status_code, known.content) == (304, b"")


def test_a_corrupt_file_is_an_error_that_the_log_explains(
    client: TestClient,
    database: Database,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job_id, sha256 = finish_with(client, database, settings, b"content")
    (Path(settings.artifacts) / sha256[:2] / sha256).write_bytes(b"Content")
    with caplog.at_level(logging.ERROR):
        response = client.get(f"/v1/jobs/{job_id}/patch")
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal")
    (record,) = [record for record in caplog.records if record.name == "service.problems"]
    assert record.exc_info is not None
    assert sha256 in str(record.exc_info[1])


def test_a_deleted_file_is_not_found(
    client: TestClient, database: Database, settings: Settings
) -> None:
    job_id, sha256 = finish_with(client, database, settings, b"content that goes")
    (Path(settings.artifacts) / sha256[:2] / sha256).unlink()
    assert client.get(f"/v1/jobs/{job_id}/patch").status_code == 404


def test_unread_downloads_block_nothing(
    settings: Settings, database: Database, make_key: Callable[..., str]
) -> None:
    with serve(settings) as (_, url), ExitStack() as open_downloads:
        headers = {"Authorization": f"Bearer {make_key()}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
            job_id, _ = finish_with(client, database, settings, LARGE)  # type: ignore[arg-type]
            path = f"/v1/jobs/{job_id}/patch"
            for _ in range(UNREAD):
                download = open_downloads.enter_context(client.stream("GET", path))
                assert download.status_code == 200
            assert client.get("/v1/jobs").status_code == 200
            assert client.get(path).content == LARGE
