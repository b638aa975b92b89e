from __future__ import annotations

import json
from pathlib import Path

import pytest

from excise.cli.output import CommandError, ExitCode, build_console
from excise.client import Client
from excise.reports import JobReport, read_report
from excise.resources.jobs import JobView
from service.commands.demo import (
    DemoOptions,
    _conclude,
    build_spec,
    check_files,
    find_inputs,
    read_prompts,
    submit_demo_job,
)
from tests.unit.excise.cli.fake_service import FakeService

SPEC = {
    "kind": "correction",
    "model": "whatever",
    "behaviours": [{"name": "repetition", "kind": "repetition", "prompts": "PROMPTS"}],
    "search": {"amounts": [4, 8, 12, 20, 32, 48]},
}


@pytest.fixture
def options(tmp_path: Path) -> DemoOptions:
    examples = tmp_path / "examples"
    examples.mkdir()
    (examples / "repetition.job.json").write_text(json.dumps(SPEC))
    (examples / "repetition_prompts.txt").write_text("\n\n".join(map(str, range(200))))
    (examples / "reference.txt").write_text("reference\n" * 100)
    (examples / "perplexity.txt").write_text("perplexity\n")
    return DemoOptions(
        home=tmp_path / "home", output=tmp_path / "out", data=tmp_path / "data", examples=examples
    )


def reduce(options: DemoOptions) -> DemoOptions:
    return DemoOptions(**{**vars(options), "is_reduced": True})


def finish(client: Client, options: DemoOptions) -> JobView:
    job = submit_demo_job(client, find_inputs(options), options)
    client.get_job(job.id)
    return client.get_job(job.id)


def test_the_corpus_is_taken_where_there_is_one(options: DemoOptions) -> None:
    assert find_inputs(options).perplexity.name == "perplexity.txt"
    assert options.data is not None
    options.data.mkdir()
    (options.data / "wikitext2_test.txt").write_text("x")
    assert find_inputs(options).perplexity.name == "wikitext2_test.txt"


def test_a_missing_example_is_named(options: DemoOptions) -> None:
    (options.examples / "reference.txt").unlink()
    with pytest.raises(CommandError, match=r"reference\.txt is missing"):
        find_inputs(options)


def test_a_spec_of_another_shape_is_an_error(options: DemoOptions) -> None:
    (options.examples / "repetition.job.json").write_text('{"behaviours": []}')
    with pytest.raises(CommandError, match="not a correction job"):
        build_spec(find_inputs(options), options, "a", "b", "c")


def test_reduced_runs_ask_for_less(options: DemoOptions) -> None:
    inputs = find_inputs(options)
    full = build_spec(inputs, options, "a", "b", "c")
    reduced = build_spec(inputs, reduce(options), "a", "b", "c")
    assert full["search"]["amounts"] == SPEC["search"]["amounts"]  # type: ignore[index]
    assert reduced["search"] == {"rounds": 2}
    assert reduced["perplexity"]["prompts"] == "c"
    assert len(read_prompts(inputs.undesired, 60).splitlines()) == 60


@pytest.mark.parametrize(
    ("verdict", "reduced", "code"),
    [
        ("passed", False, ExitCode.PASSED),
        ("rejected", False, ExitCode.GATES_NOT_MET),
        ("no_effect", False, ExitCode.GATES_NOT_MET),
        ("rejected", True, ExitCode.PASSED),
        ("no_effect", True, ExitCode.PASSED),
    ],
)
def test_how_the_demo_ends(
    service: FakeService,
    client: Client,
    options: DemoOptions,
    capsys: pytest.CaptureFixture[str],
    verdict: str,
    reduced: bool,
    code: ExitCode,
) -> None:
    options = reduce(options) if reduced else options
    options.output.mkdir()
    (options.output / "patch.safetensors").write_bytes(b"of an earlier run")
    service.verdict = verdict
    job = finish(client, options)
    assert _conclude(client, job, options, build_console()) is code
    written = {path.name for path in options.output.iterdir()}
    assert ("patch.safetensors" in written) == (verdict == "passed")
    assert {"report.json", "report.md", "report.html", "manifest.json"} <= written
    shown = capsys.readouterr().out
    assert shown.strip().startswith("Verdict: ")
    assert "\x1b" not in shown


def test_a_failed_job_is_an_error(
    service: FakeService, client: Client, options: DemoOptions
) -> None:
    service.final_status = "failed"
    job = finish(client, reduce(options))
    with pytest.raises(CommandError, match="it broke"):
        _conclude(client, job, reduce(options), build_console())


def test_files_that_tell_another_story_are_an_error(
    service: FakeService, client: Client, options: DemoOptions
) -> None:
    job = finish(client, options)
    client.download_artifacts(job, options.output)
    report = read_report((options.output / "report.json").read_bytes())
    assert isinstance(report, JobReport)
    check_files(job, report, options.output)
    with pytest.raises(CommandError, match="rejected"):
        check_files(job, report.model_copy(update={"verdict": "rejected"}), options.output)
    (options.output / "patch.safetensors").unlink()
    with pytest.raises(CommandError, match="no patch"):
        check_files(job, report, options.output)
