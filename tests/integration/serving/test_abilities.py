"""A version keeps what its job's report says about abilities, and shows it everywhere."""

from __future__ import annotations

import logging
from typing import Any

import httpx
import pytest

from service.database import Database
from service.models import Job
from tests.integration.serving.conftest import Stage, build_abilities_report
from tests.unit.excise.cli.fake_service import build_report

ALIAS = "tiny@production"
KEPT = {"copy lists": (0.9, 0.88), "count on": (1.0, 1.0), "sing": (0.05, 0.0)}
LOST = KEPT | {"quote": (0.8, 0.7), "count on": (0.83, 0.03)}


def publish(client: httpx.Client, job_id: str, **body: Any) -> dict[str, Any]:
    answer = client.post(f"/v1/models/{job_id}/publish", json=body)
    assert answer.status_code == 202, answer.text
    version: dict[str, Any] = answer.json()
    return version


def test_a_passed_correction_states_how_many_it_kept(
    stage: Stage, client: httpx.Client, tenant: str
) -> None:
    job_id = stage.make_job(tenant, report=build_abilities_report(KEPT))
    made = publish(client, job_id, alias=ALIAS)
    kept = {"able": 2, "within": 2, "lost": []}
    assert made["abilities"] == kept
    stage.build(made["id"], "one")
    assert stage.wait_for(client, made["id"], "live")["abilities"] == kept
    assert client.get("/v1/versions").json()["data"][0]["abilities"] == kept


def test_an_overridden_rejection_names_what_is_lost(
    stage: Stage, client: httpx.Client, tenant: str
) -> None:
    job_id = stage.make_job(tenant, "rejected", report=build_abilities_report(LOST))
    with stage.connect(tenant, "admin") as admin:
        made = publish(admin, job_id, override={"reason": "to look at it"})
    found = client.get(f"/v1/versions/{made['id']}").json()["abilities"]
    assert found == made["abilities"]
    assert (found["able"], found["within"]) == (3, 1)
    assert [lost["sentence"] for lost in found["lost"]] == ["count on", "quote"]
    assert found["lost"][0] == {
        "name": "count_on",
        "sentence": "count on",
        "accuracy_before": 0.83,
        "accuracy_after": 0.03,
        "max_accuracy_fall": 0.05,
        "nats_change": pytest.approx(0.8),
        "max_nats_rise": None,
    }


@pytest.mark.parametrize(
    "report",
    [
        None,
        build_report("passed") | {"schema_version": 2},
        build_abilities_report({}),
        {"schema_version": 4, "abilities": [{"name": "copying", "kept": True}]},
    ],
    ids=["no report", "of before abilities", "none measured", "of another form"],
)
def test_a_report_without_known_abilities_stops_no_publication(
    stage: Stage, client: httpx.Client, tenant: str, report: dict[str, Any] | None
) -> None:
    made = publish(client, stage.make_job(tenant, report=report))
    assert made["abilities"] is None
    stage.build(made["id"], "one")
    assert stage.wait_for(client, made["id"], "live")["abilities"] is None


def test_an_unknown_form_is_logged(
    stage: Stage, client: httpx.Client, tenant: str, caplog: pytest.LogCaptureFixture
) -> None:
    unknown = stage.make_job(tenant, report={"abilities": [{"name": "copying"}]})
    older = stage.make_job(tenant, report=build_report("passed") | {"schema_version": 2})
    with caplog.at_level(logging.WARNING, "service.serving.abilities"):
        publish(client, unknown)
        publish(client, older)
    said = [record.getMessage() for record in caplog.records if "abilities" in record.name]
    assert len(said) == 1
    assert said[0].startswith(unknown)


def test_a_job_that_publishes_itself_states_its_abilities(
    stage: Stage, client: httpx.Client, tenant: str
) -> None:
    report = build_abilities_report(KEPT)
    job_id = stage.make_job(tenant, report=report, publish_to=ALIAS)
    version = stage.wait_for_first(client)
    assert version["job"] == job_id
    assert version["abilities"] == {"able": 2, "within": 2, "lost": []}


def test_a_lost_report_is_not_mistaken_for_an_empty_one(
    stage: Stage, database: Database, client: httpx.Client, tenant: str
) -> None:
    job_id = stage.make_job(tenant, report=build_abilities_report(LOST))
    with database.transaction() as session:
        job = session.get_one(Job, job_id)
        session.refresh(job, ["artifacts"])
        for artifact in job.artifacts:
            if artifact.name == "report.json":
                stage.artifacts.delete(artifact.sha256)
    answer = client.post(f"/v1/models/{job_id}/publish")
    assert answer.status_code == 404
    assert "There is no artifact" in answer.json()["detail"]
    assert client.get("/v1/versions").json()["data"] == []
