from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from excise.cli import ci_job, group, jobs
from excise.cli.app import app
from excise.cli.output import clean, print_json
from excise.client import ApiError, ClientError, ConnectionLostError
from excise.installation import EXAMPLES
from tests.unit.excise.cli.fake_service import FakeService

EXIT_CODES = [("passed", 0), ("rejected", 100), ("no_effect", 100)]


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "job.json"
    body = {"kind": "correction", "model": "m", "behaviours": [{"name": "r"}]}
    path.write_text(json.dumps(body))
    return path


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(("verdict", "code"), EXIT_CODES)
def test_the_exit_code_is_the_verdict(
    service: FakeService, url: str, spec: Path, tmp_path: Path, verdict: str, code: int
) -> None:
    service.verdict = verdict
    out = tmp_path / "out"
    result = run("submit", spec, "--wait", "--output", out, "--url", url)
    assert result.exit_code == code, result.output
    assert {path.name for path in out.iterdir()} == set(service.files)
    assert "event 1" in result.stdout
    assert "\x1b" not in result.output
    assert "\x07" not in result.output


@pytest.mark.parametrize("value", ["NaN", "-1e999", '"\\udc00"'])
def test_a_spec_that_no_request_can_hold_is_refused_by_its_field(
    service: FakeService, url: str, spec: Path, value: str
) -> None:
    spec.write_text(spec.read_text().replace('"r"', value))
    result = run("submit", spec, "--prompts", spec, "--url", url)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: spec.behaviours[0].name ")
    assert (service.uploads, service.specs) == ([], [])


def test_a_misspelt_list_of_behaviours_is_named(service: FakeService, url: str, spec: Path) -> None:
    spec.write_text(spec.read_text().replace('"behaviours"', '"behaviors"'))
    result = run("submit", spec, "--prompts", spec, "--url", url)
    assert result.exit_code == 1
    assert "behaviors is not a known field: did you mean behaviours?" in result.stderr
    assert (service.uploads, service.specs) == ([], [])


@pytest.mark.parametrize("command", [("submit", "--wait"), ("ci", "job")])
def test_a_folder_that_cannot_be_written_is_refused_before_the_job(
    service: FakeService,
    url: str,
    spec: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    monkeypatch.setattr(ci_job, "_treat_termination_as_interrupt", lambda: None)
    result = run(*command, spec, "--output", "/proc/out", "--url", url)
    assert result.exit_code == 1
    assert "Nothing can be written to /proc/out: " in result.stderr
    assert service.specs == []


@pytest.mark.parametrize("command", ["submit", "watch", "report"])
def test_a_folder_holds_the_files_of_one_job(
    service: FakeService, url: str, spec: Path, tmp_path: Path, command: str
) -> None:
    service.verdict, out = "rejected", tmp_path / "out"
    out.mkdir()
    for name in ("patch.safetensors", "mine"):
        (out / name).write_text("of an earlier job")
    arguments: tuple[str | Path, ...] = (spec, "--wait")
    if command != "submit":
        assert run("submit", spec, "--wait", "--url", url).exit_code == 100
        arguments = ("job_1",)
    run(command, *arguments, "--output", out, "--url", url)
    assert {path.name for path in out.iterdir()} == {"mine", *service.files}
    assert "patch.safetensors" not in service.files


@pytest.mark.parametrize(("verdict", "reported"), [("passed", "rejected"), ("no_effect", "passed")])
@pytest.mark.parametrize("command", [("submit", "--wait"), ("ci", "job")])
def test_a_report_with_another_verdict_than_the_job_is_an_error(
    service: FakeService,
    url: str,
    spec: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verdict: str,
    reported: str,
    command: tuple[str, ...],
) -> None:
    monkeypatch.setattr(ci_job, "_treat_termination_as_interrupt", lambda: None)
    service.verdict, service.reported = verdict, reported
    result = run(*command, spec, "--output", tmp_path / "out", "--url", url)
    assert result.exit_code == 1
    assert f"report.json says {reported}, but the verdict of job_1 is {verdict}" in result.stderr
    assert "Verdict: " not in result.stdout


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_job_without_a_verdict_is_an_error(
    service: FakeService, url: str, spec: Path, status: str
) -> None:
    service.final_status = status
    result = run("submit", spec, "--wait", "--url", url)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: job_1")


@pytest.mark.parametrize(
    ("error", "goes_on"),
    [
        (ConnectionLostError("No answer."), True),
        (ApiError("unknown", "The service answered 503.", None, 503), True),
        (ApiError("not_found", "There is no such job.", None, 404), False),
    ],
)
def test_a_service_that_is_lost_leaves_the_way_back_to_the_job(
    url: str,
    spec: Path,
    service: FakeService,
    monkeypatch: pytest.MonkeyPatch,
    error: ClientError,
    goes_on: bool,
) -> None:
    def lose_service(*_: object) -> None:
        raise error

    monkeypatch.setattr(jobs, "follow_job", lose_service)
    result = run("submit", spec, "--wait", "--url", url)
    assert result.exit_code == 1
    way_back = " The job goes on without this command: excise watch job_1"
    assert result.stderr == f"error: {error.message}{way_back if goes_on else ''}\n"
    assert list(service.jobs) == ["job_1"]


@pytest.mark.parametrize(("verdict", "code"), EXIT_CODES)
def test_machine_output_is_one_json_document(
    service: FakeService, url: str, spec: Path, verdict: str, code: int
) -> None:
    service.verdict = verdict
    result = run("submit", spec, "--wait", "--json", "--url", url)
    assert result.exit_code == code
    assert json.loads(result.stdout)["verdict"] == verdict


def test_shortcuts_upload_and_fill_in_the_spec(
    service: FakeService, url: str, spec: Path, tmp_path: Path
) -> None:
    for name in ("bad", "good", "wiki"):
        (tmp_path / f"{name}.txt").write_text(name)
    files = [tmp_path / f"{name}.txt" for name in ("bad", "good", "wiki")]
    result = run(
        *("submit", spec, "--url", url, "--prompts", files[0]),
        *("--reference", files[1], "--perplexity", files[2]),
    )
    assert result.exit_code == 0, result.output
    assert result.stdout == "job_1\n"
    sent = service.specs[0]
    assert sent["behaviours"][0]["prompts"] == "ps_1"
    assert (sent["reference"], sent["perplexity"]["prompts"]) == ("ps_2", "ps_3")
    assert [name for name, _, _ in service.uploads] == ["bad", "good", "wiki"]


def test_the_service_error_names_the_field(url: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_text("{}")
    result = run("submit", path, "--url", url)
    assert result.exit_code == 1
    assert result.stderr == "error: kind is unknown. (field: kind)\n"


@pytest.mark.parametrize(
    ("field", "remedy"),
    [
        ("reference", "Here, --reference FILE uploads one and fills in its id."),
        ("behaviours[0].prompts", "--prompts FILE uploads"),
        ("behaviours[1].prompts", "`excise prompts upload FILE` uploads"),
        ("perplexity.prompts", "--perplexity FILE uploads"),
        ("calibration.prompts", "--calibration FILE uploads"),
        ("task", "--rows FILE uploads"),
        ("tasks[12].rows", "--task NAME=FILE uploads"),
        ("gates.zero_shot[0].rows", "`excise prompts upload FILE --rows` uploads"),
    ],
)
def test_a_set_that_there_is_not_names_what_uploads_it(
    service: FakeService, url: str, spec: Path, field: str, remedy: str
) -> None:
    service.lacking = field
    result = run("submit", spec, "--url", url)
    assert result.exit_code == 1
    assert f"{field} names no prompt set. Upload one with POST" in result.stderr
    assert remedy in result.stderr
    assert result.stderr.endswith(f"(field: {field})\n")


def test_an_error_about_another_field_names_no_upload(
    service: FakeService, url: str, spec: Path
) -> None:
    service.lacking = "model"
    assert "Here" not in run("submit", spec, "--url", url).stderr


def test_a_spec_that_gives_a_key_twice_is_not_sent(
    service: FakeService, url: str, tmp_path: Path
) -> None:
    path = tmp_path / "twice.json"
    path.write_text('{"kind": "correction", "gates": {"kl": {"max_mean": 0.1, "max_mean": 9}}}')
    result = run("submit", path, "--url", url)
    assert result.exit_code == 1
    assert result.stderr == (
        f"error: {path}: the key 'max_mean' is given twice. Keep one of the two.\n"
    )
    assert service.specs == []


@pytest.mark.parametrize("content", ["{", "[]", "\x00", "[" * 100_000, "NaN"])
def test_a_spec_that_is_no_object_is_an_error(url: str, tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    result = run("submit", path, "--url", url)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("bogus",),
        ("submit",),
        ("submit", "/does/not/exist.json"),
        ("jobs", "--limit", "0"),
        ("watch", "--nope", "job_1"),
        ("keys", "create", "--scope", "root"),
        ("watch", "job_404"),
    ],
)
def test_anything_wrong_ends_with_one(
    url: str, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.setenv("EXCISE_URL", url)
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")


def test_without_a_key_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXCISE_API_KEY")
    result = run("jobs")
    assert result.exit_code == 1
    assert "EXCISE_API_KEY" in result.stderr


def test_no_command_takes_the_key_as_a_flag() -> None:
    for command in ("submit", "jobs", "watch", "report", "cancel"):
        assert "api-key" not in run(command, "--help").stdout


def test_jobs_files_and_prompt_sets_are_deleted(service: FakeService, url: str) -> None:
    assert run("delete", "job_1", "--url", url).stdout == "deleted job_1\n"
    assert run("delete", "job_2", "--files", "--url", url).stdout == "deleted the files of job_2\n"
    assert run("prompts", "delete", "ps_1", "--url", url).stdout == "deleted ps_1\n"
    assert service.deleted == ["jobs/job_1", "jobs/job_2/artifacts", "prompt-sets/ps_1"]


def test_watch_report_jobs_and_cancel(
    service: FakeService, url: str, spec: Path, tmp_path: Path
) -> None:
    assert run("submit", spec, "--url", url).exit_code == 0
    assert run("report", "job_1", "--url", url).exit_code == 1
    assert run("watch", "job_1", "--url", url).exit_code == 0
    shown = run("report", "job_1", "--url", url).stdout
    assert shown.index("PASSED") < shown.index("Gates")
    assert "12 of 46080" in shown
    assert "[bold]" in shown
    assert json.loads(run("report", "job_1", "--format", "json", "--url", url).stdout)
    assert run("report", "job_1", "--format", "md", "--url", url).stdout == "# report\n"
    assert "job_1" in run("jobs", "--url", url).stdout
    assert json.loads(run("jobs", "--json", "--url", url).stdout)["data"][0]["id"] == "job_1"
    assert run("cancel", "job_1", "--url", url).stdout == "cancelled\n"


@pytest.mark.parametrize(("fits", "code"), [(True, 0), (False, 1)])
def test_an_estimate_submits_nothing_and_ends_as_the_job_fits(
    service: FakeService, url: str, spec: Path, tmp_path: Path, fits: bool, code: int
) -> None:
    service.fits = fits
    prompts = tmp_path / "bad.txt"
    prompts.write_text("a\n")
    result = run("submit", spec, "--prompts", prompts, "--estimate", "--url", url)
    assert result.exit_code == code
    assert "(2 workers)" in result.stdout
    assert re.search(r"^cheaper .*dtype = bfloat16.*: 16.0 GiB, 380 min$", result.stdout, re.M)
    assert "prepare 1900 s, attribute 7700 s, search 8000 s" in result.stdout
    assert service.estimated[0]["spec"]["behaviours"][0]["prompts"] == "ps_1"
    assert service.jobs == {}
    shown = json.loads(run("submit", spec, "--estimate", "--json", "--url", url).stdout)
    assert shown["data"][0]["workers"] == 2


def test_one_job_is_shown_with_what_it_was_estimated_to_take(
    service: FakeService, url: str, spec: Path
) -> None:
    assert run("submit", spec, "--url", url).exit_code == 0
    shown = run("jobs", "show", "job_1", "--url", url).stdout
    assert "job_1: correction of" in shown
    assert "prepare      running" in shown
    assert "What it was estimated to take:" in shown
    assert "of main memory, of 24.0 GiB" in shown
    assert json.loads(run("jobs", "show", "job_1", "--json", "--url", url).stdout)["estimate"]
    service.jobs["job_1"].update(
        status="failed", error={"code": "does_not_fit", "message": "too large", "param": None}
    )
    assert "failed: too large" in run("jobs", "show", "job_1", "--url", url).stdout
    assert "There is no such job" in run("jobs", "show", "job_2", "--url", url).stderr


def test_a_group_that_cannot_be_imported_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "needs_torch.py").write_text("import torch_that_is_absent\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = EntryPoint("patch", "needs_torch:app", group.ENTRY_POINT_GROUP)
    monkeypatch.setattr(group, "find_groups", lambda: {"patch": found})
    result = run("patch", "apply", "--base", "x")
    assert result.exit_code == 1
    assert "torch_that_is_absent" in result.stderr
    assert "pip install" in result.stderr
    assert "patch" in run("--help").stdout


def test_groups_of_other_packages_are_added(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = """
import typer
app = typer.Typer()

@app.callback()
def main() -> None: ...

@app.command()
def hello() -> None:
    print("hello")
"""
    (tmp_path / "brings_group.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    found = EntryPoint("models", "brings_group:app", group.ENTRY_POINT_GROUP)
    monkeypatch.setattr(group, "find_groups", lambda: {"models": found})
    assert run("models", "hello").stdout == "hello\n"
    assert re.search(r"^\W*models\b", run("--help").stdout, re.MULTILINE)


@pytest.mark.parametrize("name", ["estimate", "export", "gate", "models", "patch"])
def test_the_workers_commands_have_names_and_only_options_of_theirs(name: str) -> None:
    assert re.search(rf"^\W*{name}\b", run("--help").stdout, re.MULTILINE)
    assert "completion" not in run(name, "--help").stdout


def test_starting_the_command_line_does_not_import_torch() -> None:
    program = "import excise.cli.app, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_the_examples_are_written_once(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "examples"
    result = run("examples", "--output", folder)
    assert result.exit_code == 0, result.output
    assert (folder / "gate" / "harmful.txt").is_file()
    assert {path.name for path in folder.iterdir()} == {path.name for path in EXAMPLES.iterdir()}
    (folder / "reference.txt").write_text("mine")
    result = run("examples", "--output", folder)
    assert result.exit_code == 1
    assert "exists already. Set --output" in result.stderr
    assert (folder / "reference.txt").read_text() == "mine"


def test_json_is_exact_and_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"a\u202e": ["\x1b[2J\x9b2J\x7f", "é\n汉 \U000e0041", {"\ud800": None}]}
    for on_one_line in (True, False):
        print_json(value, on_one_line=on_one_line)
        shown = capsys.readouterr().out
        assert json.loads(shown) == value
        assert {one for one in shown if not one.isprintable()} == {"\n"}
        assert "é\\n汉" in shown


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_examples_are_whole_or_absent(
    failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy_half(source: Path, target: Path) -> None:
        target.mkdir()
        (target / "README.md").write_text("half")
        raise failure

    monkeypatch.setattr(shutil, "copytree", copy_half)
    assert run("examples", "--output", tmp_path / "examples").exit_code in {1, 130}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("::error::x", ": :error::x"),
        ("a\n  ::add-mask::x", "a\n  : :add-mask::x"),
        ("a ##[error]x", "a ## [error]x"),
        ("##vso[task.complete]", "## vso[task.complete]"),
        ("fe80::1, a::b, ## heading [x]", "fe80::1, a::b, ## heading [x]"),
    ],
)
def test_what_is_shown_commands_no_pipeline(text: str, shown: str) -> None:
    assert clean(text, keep_lines=True) == shown


def test_a_terminal_without_a_character_shows_its_escape_and_nothing_fails() -> None:
    code = "from excise.cli.group import degrade_output; degrade_output(); print('86 % → 3 %')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
    )
    assert done.stdout.decode("cp1252").strip() == r"86 % \u2192 3 %"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
@pytest.mark.parametrize("full", [">/dev/full", ">/dev/full 2>/dev/full"])
def test_an_output_that_is_full_does_not_undo_what_was_written(full: str, tmp_path: Path) -> None:
    folder = tmp_path / "examples"
    script = f'exec "$0" -c "$1" examples --output "$2" {full}'
    program = "from excise.cli.app import app; app()"
    done = subprocess.run(
        ["sh", "-c", script, sys.executable, program, str(folder)], capture_output=True
    )
    assert done.returncode == 0
    assert (folder / "reference.txt").is_file()
    said = done.stderr.decode()
    assert ("No space left" in said and f"it is in {folder}" in said) is ("2>" not in full)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
@pytest.mark.parametrize("arguments", [("version",), ("--help",), ("ci", "comment")])
def test_what_could_not_be_printed_is_said_in_words(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", "from excise.cli.app import app; app()", *arguments]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "error: the output could not be written whole: No space left on device.\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_what_was_deleted_counts_where_it_cannot_be_printed(
    service: FakeService, url: str, spec: Path
) -> None:
    assert run("submit", spec, "--wait", "--url", url).exit_code == 0
    program = "from excise.cli.app import app; app()"
    command = [sys.executable, "-c", program, "delete", "job_1", "--url", url]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
    assert service.deleted == ["jobs/job_1"]


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize(("command", "code"), [("version", 0), ("no-such-command", 1)])
def test_a_closed_output_leaves_the_exit_code(closed: str, command: str, code: int) -> None:
    script = f'exec "$0" -c "$1" {command} {closed}'
    program = "from excise.cli.app import app; app()"
    done = subprocess.run(["sh", "-c", script, sys.executable, program], capture_output=True)
    assert done.returncode == code
    assert b"AttributeError" not in done.stderr
    assert (b"no-such-command" in done.stderr) is (code == 1 and "2>" not in closed)


@pytest.mark.parametrize(("verdict", "code"), EXIT_CODES)
def test_progress_that_nobody_reads_leaves_the_verdict(
    url: str, service: FakeService, spec: Path, verdict: str, code: int
) -> None:
    service.verdict = verdict
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", "from excise.cli.app import app; app()"]
        arguments = ["submit", str(spec), "--wait", "--json", "--url", url]
        done = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, stderr=full)
    assert done.returncode == code
    assert json.loads(done.stdout)["verdict"] == verdict


@pytest.mark.parametrize(
    ("verdict", "code", "as_json", "reader"),
    [
        ("passed", 0, ["--json"], "none"),
        ("rejected", 100, ["--json"], "full disk"),
        ("no_effect", 100, [], "none"),
        ("passed", 0, [], "full disk"),
    ],
)
def test_a_result_that_nobody_reads_leaves_the_verdict(
    url: str,
    service: FakeService,
    spec: Path,
    verdict: str,
    code: int,
    as_json: list[str],
    reader: str,
) -> None:
    service.verdict = verdict
    output = os.open("/dev/full", os.O_WRONLY)
    if reader == "none":
        left, right = os.pipe()
        os.close(left)
        os.dup2(right, output)
        os.close(right)
    command = [sys.executable, "-c", "from excise.cli.app import app; app()"]
    arguments = ["submit", str(spec), "--wait", *as_json, "--url", url]
    try:
        done = subprocess.run([*command, *arguments], stdout=output, stderr=subprocess.PIPE)
    finally:
        os.close(output)
    assert done.returncode == code
    assert (b"excise report job_1" in done.stderr) == bool(as_json)


def test_no_file_gets_the_number_of_a_closed_output(tmp_path: Path) -> None:
    """Into a file that did, libraries would print."""
    program = (
        "from excise.cli.group import degrade_output; degrade_output(); import os, sys\n"
        "with open(sys.argv[1], 'w') as file:\n"
        "    os.write(1, b'progress'); os.write(2, b'warning'); file.write('weights')"
    )
    file = tmp_path / "model"
    script = 'exec "$0" -c "$1" "$2" <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", script, sys.executable, program, str(file)])
    assert (done.returncode, file.read_text()) == (0, "weights")


def test_the_audit_log_is_one_object_a_line(service: FakeService, url: str) -> None:
    service.changes = ["job.submit", "key.create", "job.submit"]
    result = run("audit-log", "--after", "1", "--url", url)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["id"], line["action"]) for line in lines] == [
        (2, "key.create"),
        (3, "job.submit"),
    ]
    result = run("audit-log", "--action", "key.create", "--url", url)
    assert json.loads(result.stdout)["target"] == "job_2"
