"""A manifest submitted again: its sets found by content, its files compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from excise.cli.app import app
from tests.unit.excise.cli.fake_service import FakeService

CONTENTS = {"bad": b"be rude\n", "good": b"be kind\n", "wiki": b'{"text": "a"}\n'}
ROWS = b'{"question": "q"}\n'


def name_set(name: str, kind: str, content: bytes) -> dict[str, str]:
    return {"name": name, "sha256": hashlib.sha256(content).hexdigest(), "format": kind}


@pytest.fixture
def manifest() -> dict[str, Any]:
    return {
        "format_version": 2,
        "verdict": "passed",
        "model": {"id": "m", "sha256": "00"},
        "spec": {
            "kind": "correction",
            "model": "m",
            "behaviours": [{"name": "r", "prompts": name_set("bad", "text", CONTENTS["bad"])}],
            "reference": name_set("good", "text", CONTENTS["good"]),
            "perplexity": {"prompts": name_set("wiki", "jsonl", CONTENTS["wiki"]), "context": 64},
            "tasks": [{"name": "boolq", "rows": name_set("boolq", "rows", ROWS)}],
            "publish": {"alias": "production"},
            "seed": 7,
        },
        "seed": 7,
        "versions": {},
        "sha256": {"report.md": "a" * 64, "patch.safetensors": "b" * 64},
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of the sets, under names that say nothing."""
    below = tmp_path / "sets" / "deep"
    below.mkdir(parents=True)
    for number, content in enumerate([*CONTENTS.values(), ROWS, b"another\n"]):
        (below / str(number)).write_bytes(content)
    return below.parent


def run(manifest: Any, url: str, tmp_path: Path, *arguments: str | Path) -> Any:
    path = tmp_path / "manifest.json"
    path.write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))
    words = ["reproduce", path, "--url", url, *arguments]
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_spec_comes_back_with_sets_of_the_same_content(
    service: FakeService, url: str, tmp_path: Path, folder: Path, manifest: dict[str, Any]
) -> None:
    result = run(manifest, url, tmp_path, "--prompts-dir", folder)
    assert result.exit_code == 0, result.output
    assert result.stdout == "job_1\n"
    ids = {held["name"]: held["id"] for held in service.sets}
    expected = {key: value for key, value in manifest["spec"].items() if key != "publish"}
    expected |= {
        "behaviours": [{"name": "r", "prompts": ids["bad"]}],
        "reference": ids["good"],
        "perplexity": {"prompts": ids["wiki"], "context": 64},
        "tasks": [{"name": "boolq", "rows": ids["boolq"]}],
    }
    assert service.specs == [expected]
    assert {held["name"]: held["format"] for held in service.sets} == {
        "bad": "text",
        "good": "text",
        "wiki": "jsonl",
        "boolq": "rows",
    }


def test_sets_that_the_service_has_need_no_files(
    service: FakeService, url: str, tmp_path: Path, manifest: dict[str, Any]
) -> None:
    service.hold("good", "jsonl", CONTENTS["good"])  # read otherwise, it is another set
    service.hold("named otherwise", "text", CONTENTS["good"])
    for name, kind in (("bad", "text"), ("good", "text"), ("wiki", "jsonl")):
        service.hold(name, kind, CONTENTS[name])
    service.hold("boolq", "rows", ROWS)
    result = run(manifest, url, tmp_path)
    assert result.exit_code == 0, result.output
    assert service.uploads == []
    assert service.specs[0]["reference"] == "ps_4"


def test_a_set_that_is_nowhere_is_named(
    service: FakeService, url: str, tmp_path: Path, folder: Path, manifest: dict[str, Any]
) -> None:
    (folder / "deep" / "1").write_bytes(b"be kinder\n")
    result = run(manifest, url, tmp_path, "--prompts-dir", folder)
    assert result.exit_code == 1
    digest = hashlib.sha256(CONTENTS["good"]).hexdigest()
    assert f"lacks good (SHA-256 {digest[:12]}…)" in result.stderr
    assert "has no file with that content" in result.stderr
    assert service.specs == []
    assert service.uploads == []
    bare = run(manifest, url, tmp_path)
    assert "no --prompts-dir was given" in bare.stderr


def test_the_new_files_are_compared_with_the_manifest(
    service: FakeService, url: str, tmp_path: Path, folder: Path, manifest: dict[str, Any]
) -> None:
    service.manifest = manifest
    same = run(manifest, url, tmp_path, "--prompts-dir", folder, "--wait")
    assert same.exit_code == 0, same.output
    assert "Reproduced: all 2 files are the same, byte for byte." in same.stdout
    service.verdict = "rejected"
    service.manifest = {**manifest, "verdict": "rejected", "sha256": {"report.md": "c" * 64}}
    other = run(manifest, url, tmp_path, "--prompts-dir", folder, "--wait")
    assert other.exit_code == 100
    assert "Not the same bytes: patch.safetensors, report.md." in other.stdout
    assert "The verdict was passed; now it is rejected." in other.stdout


def test_a_manifest_is_not_overwritten_by_the_new_one(
    service: FakeService, url: str, tmp_path: Path, folder: Path, manifest: dict[str, Any]
) -> None:
    result = run(manifest, url, tmp_path, "--prompts-dir", folder, "--wait", "--output", tmp_path)
    assert result.exit_code == 1
    assert "lies in the folder for the new job's files" in result.stderr
    assert json.loads((tmp_path / "manifest.json").read_bytes()) == manifest
    assert service.specs == []


def test_machine_output_is_one_json_document(
    service: FakeService, url: str, tmp_path: Path, folder: Path, manifest: dict[str, Any]
) -> None:
    service.manifest = manifest
    result = run(manifest, url, tmp_path, "--prompts-dir", folder, "--wait", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["verdict"] == "passed"
    assert "Reproduced" in result.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a manifest"),
        ("[]", "is not a manifest"),
        ('{"kind": "a", "kind": "b"}', "the key 'kind' is given twice"),
        ("[" * 100_000, "is not a manifest"),
        ('{"kind": "correction"}', "is not a manifest"),
        ('{"format_version": 1, "verdict": "passed", "spec": {}, "sha256": {}}', "of format 1"),
    ],
)
def test_what_is_no_manifest_is_an_error(
    url: str, tmp_path: Path, content: str, message: str
) -> None:
    result = run(content, url, tmp_path)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("part", "instead", "message"),
    [
        ('"seed": 7', '"seed": NaN', "spec.seed is not a finite number"),
        ('"context": 64', '"context": 1e999', "spec.perplexity.context is not a finite number"),
        ('"seed": 7', '"seed": "\\ud800"', "spec.seed holds half of a surrogate pair"),
        ('"verdict": "passed"', '"verdict": "\\u001b[2Jfine"', "verdict: Input should be"),
        ('"format_version": 2', '"format_version": "2"', "format_version: Input should be a valid"),
        ('"aaaa', '"/etc/aaaa', "sha256.report.md: String should match pattern"),
    ],
)
def test_a_damaged_manifest_is_refused_by_its_field_before_anything_is_sent(
    service: FakeService,
    url: str,
    tmp_path: Path,
    folder: Path,
    manifest: dict[str, Any],
    part: str,
    instead: str,
    message: str,
) -> None:
    content = json.dumps(manifest).replace(part, instead, 1)
    result = run(content, url, tmp_path, "--prompts-dir", folder)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "\x1b" not in result.stderr
    assert (service.uploads, service.specs) == ([], [])


def test_the_same_files_under_another_verdict_are_told(
    service: FakeService, url: str, tmp_path: Path, folder: Path, manifest: dict[str, Any]
) -> None:
    service.manifest = manifest
    edited = manifest | {"verdict": "rejected"}
    result = run(edited, url, tmp_path, "--prompts-dir", folder, "--wait")
    assert result.exit_code == 0
    assert "The verdict was rejected; now it is passed." in result.stdout
