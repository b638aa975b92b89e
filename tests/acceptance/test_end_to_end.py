"""A correction over REST and from the command line, repeated by another tenant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.harness import (
    FAULTY_NEURON,
    FILES,
    LAYERS,
    MODEL,
    NEURONS,
    STAGES,
    Harness,
    check_artifacts,
    check_equal_files,
    find_stage_events,
    list_types,
)


def excise(
    stack: Harness, *arguments: str, key: str | None = None
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EXCISE_")}
    environment = {**kept, "EXCISE_URL": stack.stack.url, "EXCISE_API_KEY": key or stack.key}
    command = [sys.executable, "-m", "excise.cli.app", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def submit_and_wait(
    stack: Harness, spec: dict[str, Any], output: Path, key: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `excise submit --wait`, which downloads the job's files to `output`."""
    path = output.with_name("spec.json")
    path.write_text(json.dumps(spec))
    arguments = ("submit", str(path), "--wait", "--json", "--output", str(output))
    return excise(stack, *arguments, key=key)


def check_report(report: dict[str, Any]) -> None:
    """Check every member of the report on which other tools rely."""
    assert report["verdict"] == "passed", report["reason"]
    (behaviour,) = report["behaviours"]
    assert (behaviour["name"], behaviour["kind"]) == ("repetition", "repetition")
    assert behaviour["headline"] == "mean_score"
    (evaluator,) = behaviour["evaluators"]
    assert evaluator["evaluator"] == "response_uniqueness"
    assert evaluator["direction"] == "higher_is_better"
    measures = {measure["name"]: measure for measure in evaluator["measures"]}
    assert measures.keys() == {"share", "any_share", "expected_worst", "mean_score"}
    measure = measures["mean_score"]
    tune, held_out, control = measure["tune"], measure["held_out"], measure["random_control"]
    assert tune.keys() >= {"n", "before", "after"}
    assert held_out.keys() >= {"n", "before", "after", "ci_low", "ci_high"}
    assert tune["n"] > 0
    assert held_out["n"] > 0
    assert 0 < held_out["ci_low"] <= held_out["after"] - held_out["before"] <= held_out["ci_high"]
    assert control.keys() >= {"before", "after", "ci_low", "ci_high"}
    assert control["before"] == held_out["before"]
    perplexity, kl = report["damage"]["perplexity"], report["damage"]["kl"]
    assert perplexity.keys() >= {"corpus", "context", "before", "after"}
    assert perplexity["before"] > 1
    assert kl["mean"] > 0
    assert kl["tokens"] > 0
    assert kl["p95"] >= 0
    patch = report["patch"]
    assert patch["granularity"] == "neuron"
    assert patch["of"] == LAYERS * NEURONS
    assert FAULTY_NEURON in patch["modules"]["model.layers.0.mlp.down_proj"]
    assert {step["components"] for step in report["search"]} <= {1, 8}
    assert all({"origin", "gain", "kl", "on_front"} <= step.keys() for step in report["search"])
    (chosen,) = [step for step in report["search"] if step["chosen"]]
    assert chosen["components"] == patch["components"]
    assert report["gates"]
    for gate in report["gates"]:
        assert gate.keys() >= {"name", "limit", "value", "passed"}
        assert gate["passed"]
    assert {sample["split"] for sample in report["samples"]} == {"tune", "held_out"}
    for sample in report["samples"]:
        assert sample["prompt"]
        assert {"before", "after"} <= sample.keys()
    assert set(report["timings"]) >= set(STAGES[:-1])
    assert report["seed"] == 0
    assert {"excise", "torch", "transformers"} <= report["versions"].keys()
    assert report["model"]["id"] == MODEL
    assert len(report["model"]["sha256"]) == 64


def check_told_in_order(events: list[dict[str, Any]]) -> None:
    """Check the order of events: queued, started, each stage once from start to end, ended."""
    assert [event["id"] for event in events] == sorted({event["id"] for event in events})
    types = list_types(events)
    assert types[:2] == ["job.queued", "job.started"]
    starts_and_ends = [
        (event["type"], event["data"]["stage"])
        for event in events
        if event["type"] in {"stage.started", "stage.succeeded"}
    ]
    expected = [(kind, stage) for stage in STAGES for kind in ("stage.started", "stage.succeeded")]
    assert starts_and_ends == expected
    for stage in STAGES:
        progress = find_stage_events(events, "stage.progress", stage)
        done = [event["data"]["done"] for event in progress]
        assert done == sorted(done)
        assert progress[-1]["data"]["done"] == progress[-1]["data"]["total"]


def test_a_job_from_submission_to_files(
    stack: Harness, folder: Path, first_files: dict[str, bytes]
) -> None:
    job_id = stack.submit(metadata={"ticket": "SAFE-12"})
    streamed = list(stack.client.iter_events(job_id))
    job = stack.job(job_id)
    assert job.error is None
    assert (job.status, job.verdict) == ("succeeded", "passed")
    assert (job.attempts, job.stage, job.metadata) == (1, None, {"ticket": "SAFE-12"})
    assert [(stage.name, stage.status) for stage in job.stages] == [
        (name, "succeeded") for name in STAGES
    ]
    assert all(stage.seconds is not None and stage.done == stage.total for stage in job.stages)
    assert job.started_at is not None
    assert job.finished_at is not None
    assert job.created_at <= job.started_at <= job.finished_at
    assert job.estimate is not None
    assert (job.estimate.source, job.estimate.fits) == ("worker", True)
    assert 0 < job.estimate.host_bytes < job.estimate.machine.host_bytes
    assert stack.client.estimate_job(job.spec).data[0].workers == 1

    events = stack.events(job_id)
    check_told_in_order(events)
    assert [event.id for event in streamed] == [event["id"] for event in events]
    assert events[-1]["type"] == "job.succeeded"
    assert events[-1]["data"]["verdict"] == "passed"
    assert excise(stack, "watch", job_id).returncode == 0

    assert sorted(artifact.name for artifact in job.artifacts) == FILES
    check_artifacts(stack, job)
    files = stack.download(job, folder)
    report = json.loads(files["report.json"])
    check_report(report)
    assert list_types(events).count("search.trial") == len(report["search"])
    manifest = json.loads(files["manifest.json"])
    listed = {artifact.name: artifact.sha256 for artifact in job.artifacts}
    assert manifest["sha256"]["patch.safetensors"] == listed["patch.safetensors"]
    check_equal_files(files, first_files or files)
    first_files.update(first_files or files)


def test_the_same_files_of_another_tenant_give_the_same_bytes(
    stack: Harness, tmp_path: Path, first_files: dict[str, bytes]
) -> None:
    if not first_files:
        pytest.skip("needs the files of another test in this folder; run all of them")
    key = stack.create_key("second")
    with stack.connect(key) as other:
        spec = stack.build_spec(other)
    output = tmp_path / "out"
    ended = submit_and_wait(stack, spec, output, key=key)
    assert ended.returncode == 0, ended.stderr
    check_equal_files({path.name: path.read_bytes() for path in output.iterdir()}, first_files)


@pytest.mark.parametrize(
    ("threshold", "min_effect", "verdict"), [(0.5, 1.0, "rejected"), (0.01, 0.1, "no_effect")]
)
def test_a_verdict_other_than_passed_is_exit_code_100(
    stack: Harness, tmp_path: Path, threshold: float, min_effect: float, verdict: str
) -> None:
    spec = stack.build_spec()
    spec["behaviours"][0]["threshold"] = threshold
    spec["behaviours"][0]["min_effect"] = min_effect
    output = tmp_path / "out"
    ended = submit_and_wait(stack, spec, output)
    assert ended.returncode == 100, ended.stderr
    job = json.loads(ended.stdout)
    assert (job["verdict"], job["status"]) == (verdict, "rejected")
    assert json.loads((output / "report.json").read_text())["verdict"] == verdict
    names = sorted(path.name for path in output.iterdir())
    has_patch = verdict == "rejected"  # the job found something, but it was not good enough
    assert names == [name for name in FILES if has_patch or name != "patch.safetensors"]
    statuses = {stage["name"]: stage["status"] for stage in job["stages"]}
    skipped = [] if has_patch else ["attribute", "search", "validate"]
    assert [name for name, status in statuses.items() if status == "skipped"] == skipped
