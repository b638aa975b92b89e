"""What the benchmark of a whole job counts: what a service's job leaves in its store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from service.artifacts import open_artifact_store


@pytest.fixture(scope="module")
def job_cost(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("job_cost")


@pytest.fixture(scope="module")
def whole_job(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("whole_job")


def count_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_store_holds_what_a_job_leaves(whole_job: ModuleType, tmp_path: Path) -> None:
    told: list[str] = []
    context = whole_job.StoringContext(open_artifact_store(str(tmp_path)), told.append)
    output = context.run_stage("prepare", {}, lambda progress: b"12345")
    assert context.outputs == {"prepare": output.data}
    assert told[0] == "prepare …"
    assert told[1].startswith("prepare: peak so far ")
    assert context.peaks["prepare"] > 0
    assert context.remember("search.measured", "key", lambda: b"123") == b"123"
    context.publish_file("report.md", b"1234567", "text/markdown")
    assert count_bytes(tmp_path) == 15
    assert context.published == 7
    for data in (b"1", b"22"):
        context.save("attribute.segments", "key", data)
    assert count_bytes(tmp_path) == 17
    context.forget("attribute.segments", "key")
    assert count_bytes(tmp_path) == 15


def test_a_limit_leaves_nothing_behind(job_cost: ModuleType) -> None:
    before = sorted(Path("/sys/fs/cgroup").glob("*/excise-job-cost-*"))
    with job_cost.limited(1 << 30) as (how, enter):
        assert how
        assert callable(enter)
    assert sorted(Path("/sys/fs/cgroup").glob("*/excise-job-cost-*")) == before


def test_figures_are_told_beside_their_goals(
    job_cost: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    job_cost.show(
        "small",
        {
            "weights": 4 << 20,
            "peak": 10 << 20,
            "peaks": {"attribute": 8 << 20},
            "stored": 5000,
            "published": 400,
            "pruned": 50,
            "seconds": {"attribute": 1.6},
            "verdict": "passed",
            "limit": f"10 GiB by process {os.getpid()}",
        },
    )
    shown = capsys.readouterr().out
    assert "peak resident ÷ weights 2.50 (goal 3.0): attribute 2.00" in shown
    assert "artifact bytes ÷ pruned weight 100 (goal 200)" in shown
    assert "8 when results of stages have expired" in shown
