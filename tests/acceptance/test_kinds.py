"""Circuit and compression jobs from the command line to their files, through the whole stack."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from excise.specs import SPECS
from tests.acceptance.harness import MODEL, Harness, build_prompts
from tests.acceptance.test_end_to_end import excise
from tests.faulty import FAULTY_NEURON, build_faulty_model, draw_rows
from workers.pruning.patch import Patch, apply_patch, parse_patch, revert_patch
from workers.pruning.safetensors_files import compute_checkpoint_sha256

ROWS = 24


@pytest.fixture
def model_folder(stack: Harness) -> Path:
    return stack.stack.home / "models" / MODEL


def build_rows() -> bytes:
    """Return the rows of a task that a single neuron solves, as JSON lines."""
    return "\n".join(map(json.dumps, draw_rows(ROWS))).encode()


def build_questions() -> bytes:
    """Return questions in the BoolQ format."""
    rows = [
        {"passage": f"w{n} w{n + 1}", "question": f"w{n + 2}", "answer": n % 2 == 0}
        for n in range(8)
    ]
    return "\n".join(map(json.dumps, rows)).encode()


def submit_and_wait(
    stack: Harness, spec: dict[str, Any], folder: Path, *options: str
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Run `excise submit --wait`; return the folder with its files."""
    path, output = folder / "spec.json", folder / "out"
    path.write_text(json.dumps(spec))
    ended = excise(stack, "submit", str(path), "--wait", "--output", str(output), *options)
    return ended, output


def check_files(output: Path, kind: str, verdict: str) -> dict[str, Any]:
    """Return the report of a job that ended this way, after checking its files."""
    report: dict[str, Any] = json.loads((output / "report.json").read_text())
    manifest = json.loads((output / "manifest.json").read_text())
    assert (report["kind"], report["verdict"], manifest["verdict"]) == (kind, verdict, verdict)
    assert list(report["timings"]) == sorted(list(SPECS[kind].stages)[:-1])
    page = (output / "report.html").read_text()
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert report["model"]["sha256"] in page
    assert report["model"]["sha256"] in (output / "report.md").read_text()
    return report


def check_patch(base: Path, output: Path, scratch: Path) -> Patch:
    """Check that the patch applies to the base, and that reverting it restores the base."""
    patch = parse_patch((output / "patch.safetensors").read_bytes())
    apply_patch(patch, base, scratch / "patched")
    revert_patch(patch, scratch / "patched", scratch / "base")
    assert compute_checkpoint_sha256(scratch / "base") == compute_checkpoint_sha256(base)
    assert compute_checkpoint_sha256(scratch / "patched") == patch.corrected_sha256
    return patch


@pytest.mark.parametrize(
    ("max_share", "code", "dtype"),
    [(0.1, 0, "float32"), (0.0001, 100, "float32"), (0.1, 0, "bfloat16")],
)
def test_a_circuit_job(
    stack: Harness, model_folder: Path, tmp_path: Path, max_share: float, code: int, dtype: str
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(build_rows())
    spec = {
        "kind": "circuit",
        "model": MODEL,
        "task": "given below",
        "attributors": ["attnlrp", "wanda", "random"],
        "shares": [0.001, 0.01, 0.1, 0.5],
        "threshold": 0.8,
        "max_share": max_share,
        "rows": ROWS,
        "dtype": dtype,
    }
    ended, output = submit_and_wait(stack, spec, tmp_path, "--rows", str(rows))
    assert ended.returncode == code, ended.stderr + ended.stdout
    report = check_files(output, "circuit", "passed" if code == 0 else "rejected")
    assert [curve["attributor"] for curve in report["curves"]] == spec["attributors"]
    assert [len(curve["points"]) for curve in report["curves"]] == [5, 5, 5]
    assert report["task"]["rows"] == {"discovery": 8, "choice": 8, "held_out": 8}
    assert report["circuit"]["kept"] < 40
    assert report["circuit"]["held_out"]["retention"] >= 0.8
    assert "The circuit" in ended.stdout
    patch = check_patch(model_folder, output, tmp_path)
    assert FAULTY_NEURON not in patch.selection.indices["model.layers.0.mlp.down_proj"]


@pytest.mark.parametrize(
    ("limit", "code", "dtype"),
    [
        (None, 0, "float32"),
        (1e6, 0, "float32"),
        (-0.0, 100, "float32"),
        (None, 0, "bfloat16"),
        (1e6, 0, "bfloat16"),
    ],
)
def test_a_compression_job(
    stack: Harness, model_folder: Path, tmp_path: Path, limit: float | None, code: int, dtype: str
) -> None:
    text, questions = tmp_path / "text.txt", tmp_path / "boolq.jsonl"
    text.write_bytes(build_prompts(60, 40, 3))
    questions.write_bytes(build_questions())
    spec = {
        "kind": "compression",
        "model": MODEL,
        "method": "wanda" if limit is None else "attnlrp",
        "pattern": "2:4" if limit is None else "unstructured",
        "sequential": limit is None,
        "calibration": {"samples": 8, "tokens": 32},
        "perplexity": {"context": 32, "sequences": 8},
        "budget": {"perplexity_increase": limit},
        "dtype": dtype,
    }
    options = (
        "--calibration",
        str(text),
        "--perplexity",
        str(text),
        "--task",
        f"boolq={questions}",
    )
    ended, output = submit_and_wait(stack, spec, tmp_path, *options)
    assert ended.returncode == code, ended.stderr + ended.stdout
    report = check_files(output, "compression", "passed" if code == 0 else "rejected")
    assert report["achieved_sparsity"] == pytest.approx(0.5, abs=0.01)
    assert report["perplexity"]["after"] != report["perplexity"]["before"]
    (task,) = report["tasks"]
    assert (task["name"], task["after"]["questions"]) == ("boolq", 8)
    assert task["after"]["accuracy_error"] >= 0
    assert "save no time" in report["speed_note"]
    assert "What changed" in ended.stdout
    check_patch(model_folder, output, tmp_path)


@pytest.mark.parametrize(
    ("granularity", "dtype"),
    [("weight", "float32"), ("head", "float32"), ("weight", "bfloat16"), ("head", "bfloat16")],
)
def test_a_correction_of_other_components(
    stack: Harness, tmp_path: Path, granularity: str, dtype: str
) -> None:
    name = f"faulty-{granularity}-{dtype}"
    base = build_faulty_model(stack.stack.home / "models" / name, granularity)
    attribution = {"granularity": granularity, "score": "signed_difference"}
    spec = stack.build_spec(
        model=name,
        dtype=dtype,
        attribution=attribution,
        search={"amounts": [1, 2]},
        # A random model's own text cannot become more uniform.
        responses={"max_uniqueness_fall": None, "max_diversity_fall": None},
    )
    ended, output = submit_and_wait(stack, spec, tmp_path)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    report = json.loads((output / "report.json").read_text())
    assert report["verdict"] == "passed", report["reason"]
    patch = check_patch(base, output, tmp_path)
    assert patch.granularity == report["patch"]["granularity"] == granularity
    assert len(patch.selection) == report["patch"]["components"] > 0
    assert f"{granularity}s pruned" in ended.stdout
    if granularity == "head":
        assert 0 in patch.selection.indices["model.layers.0.self_attn.o_proj"]
