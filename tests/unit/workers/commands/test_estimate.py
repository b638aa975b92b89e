"""`excise estimate` on files: figures of a described machine, exit status, clear refusals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from excise.cli.app import app
from excise.estimates.machine import Machine
from tests.unit.excise.estimates.test_estimate import H100, SMOLLM2, TWO_CORES
from tests.unit.excise.estimates.test_shape import LLAMA_8B

SPEC = {
    "kind": "correction",
    "model": "m",
    "behaviours": [{"name": "repetition", "kind": "repetition", "prompts": "p"}],
    "reference": "r",
    "attribution": {"granularity": "weight"},
}


def run(folder: Path, spec: dict, config: dict, machine: Machine, *options: str):
    """The command's result for files written into `folder`."""
    files = {
        "spec.json": json.dumps(spec),
        "config.json": json.dumps(config),
        "machine.json": machine.model_dump_json(),
        "prompts.txt": "Tell me about the sea.\nName three towns.\n" * 30,
    }
    for name, content in files.items():
        (folder / name).write_text(content)
    arguments = ["estimate", str(folder / "spec.json"), "--model", str(folder / "config.json")]
    return CliRunner().invoke(
        app, [*arguments, "--machine", str(folder / "machine.json"), *options]
    )


def prompts_of(folder: Path) -> tuple[str, str]:
    return "--prompts", str(folder / "prompts.txt")


def test_a_job_that_fits_ends_with_zero(tmp_path: Path) -> None:
    result = run(tmp_path, SPEC, SMOLLM2, TWO_CORES, *prompts_of(tmp_path))
    assert result.exit_code == 0
    assert "fits         yes" in result.stdout
    assert "within a factor of two" in result.stdout


def test_a_job_that_does_not_fit_ends_with_one_and_says_what_would(tmp_path: Path) -> None:
    result = run(tmp_path, SPEC, LLAMA_8B, TWO_CORES, *prompts_of(tmp_path), "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 1
    assert "main memory" in found["problem"]
    assert any(setting["change"] == {"dtype": "bfloat16"} for setting in found["cheaper"])


def test_real_reference_text_and_corpus_replace_what_the_spec_may_use(tmp_path: Path) -> None:
    spec = SPEC | {"perplexity": {"prompts": "c"}}
    given = prompts_of(tmp_path)
    most = json.loads(run(tmp_path, spec, SMOLLM2, TWO_CORES, *given, "--json").stdout)
    (tmp_path / "reference.txt").write_text("The sea is deep and blue.\n" * 40)
    (tmp_path / "corpus.txt").write_text("Towns have markets.\n" * 200)
    given += ("--reference", str(tmp_path / "reference.txt"))
    given += ("--perplexity", str(tmp_path / "corpus.txt"))
    real = json.loads(run(tmp_path, spec, SMOLLM2, TWO_CORES, *given, "--json").stdout)
    for stage in ("attribute", "validate"):
        assert real["stages"][stage] < most["stages"][stage]
    refused = run(tmp_path, SPEC, SMOLLM2, TWO_CORES, *given)
    assert refused.exit_code == 1
    assert "the spec has no perplexity" in refused.output


def test_a_gpu_has_memory_of_its_own(tmp_path: Path) -> None:
    spec = SPEC | {"dtype": "bfloat16"}
    result = run(tmp_path, spec, LLAMA_8B, H100, *prompts_of(tmp_path))
    assert result.exit_code == 0
    assert "NVIDIA H100 (80.0 GiB)" in result.stdout
    assert "on the device" in result.stdout


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        (SPEC | {"kind": "circuit"}, "only corrections are estimated"),
        (SPEC | {"behaviours": SPEC["behaviours"] * 2}, "the same name twice"),
        (
            SPEC | {"behaviours": [*SPEC["behaviours"], SPEC["behaviours"][0] | {"name": "b"}]},
            "has 2 behaviours and 1 files",
        ),
    ],
)
def test_what_cannot_be_estimated_says_why(tmp_path: Path, spec: dict, says: str) -> None:
    result = run(tmp_path, spec, SMOLLM2, TWO_CORES, *prompts_of(tmp_path))
    assert result.exit_code == 1
    assert says in result.output
