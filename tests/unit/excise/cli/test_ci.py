"""`excise ci`: the comment, annotations and JUnit of a pipeline, and posting to fake hosts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from excise.cli import ci_job
from excise.cli.app import app
from excise.names import JobFile
from tests.unit.excise.cli.fake_service import FakeService
from tests.unit.excise.outgoing.servers import Reply, Request, Server, serve
from tests.unit.excise.reports.test_comment import KL, LOST, MET, build, build_example

MARKER = "<!-- excise-comment:excise -->"
TOKEN = "ghs_0123456789abcdef"


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["ci", *(str(argument) for argument in arguments)])


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "gate.json"
    path.write_text(build(KL, MET, examples=[build_example(f"it is {TOKEN}")]).model_dump_json())
    return path


def test_the_text_goes_to_standard_output(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", TOKEN)
    result = run("comment", report, "--id", "nightly", "--link", "run=https://ci.example/1")
    assert result.exit_code == 0
    assert result.stdout.startswith("<!-- excise-comment:nightly -->\n")
    assert "[run](<https://ci.example/1>)" in result.stdout
    assert TOKEN not in result.stdout
    assert "may offend" in result.stdout
    assert "may offend" not in run("comment", report, "--no-responses").stdout


def test_without_a_report_the_comment_says_that_there_is_no_verdict() -> None:
    result = run("comment", "--link", "run=https://ci.example/1")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"{MARKER}\n\n### ⚠️ Excise: no verdict\n")
    assert result.stdout.endswith("[run](<https://ci.example/1>)\n")


def test_annotations_and_junit(report: Path) -> None:
    assert run("annotations", report).stdout.startswith("::error title=Excise%3A kl::")
    suite = ElementTree.fromstring(run("junit", report).stdout_bytes).find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")


def test_no_secret_is_in_junit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPLOY_TOKEN", "correct horse")
    words = {"note": "correct horse", "remedy": f"{TOKEN} correct horse", "name": "correct horse"}
    path = tmp_path / "gate.json"
    path.write_text(build(KL.model_copy(update=words), LOST).model_dump_json())
    shown = run("junit", path).stdout
    assert "horse" not in shown
    assert TOKEN not in shown
    assert "not measured: no way" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--link", "nothing"), "is not NAME=URL"),
        (("--id", "a b"), "the comment's id"),
    ],
)
def test_wrong_options_are_named(report: Path, arguments: tuple[str, ...], words: str) -> None:
    result = run("comment", report, *arguments)
    assert result.exit_code == 1
    assert words in result.stderr


def test_what_is_no_report_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]")
    assert run("comment", tmp_path / "x.json").exit_code == 1


class Host:
    """GitHub's or GitLab's comments of one pull request, behind a real port."""

    def __init__(self, comments: list[dict[str, Any]]) -> None:
        self.comments = comments

    def answer(self, request: Request) -> Reply:
        path, _, query = request.path.partition("?")
        if path == "/user":
            return Reply(b'{"id": 7}')
        if request.method == "GET":
            page = int(dict(pair.split("=") for pair in query.split("&"))["page"])
            return Reply(json.dumps(self.comments[100 * (page - 1) : 100 * page]).encode())
        body = json.loads(request.body)["body"]
        if request.method == "POST":
            author = {"user": {"login": "github-actions[bot]"}, "author": {"id": 7}}
            self.comments.append({"id": len(self.comments) + 1, "body": body, **author})
        else:
            number = int(path.rpartition("/")[2])
            next(own for own in self.comments if own["id"] == number)["body"] = body
        return Reply(b"{}")


def build_comment(number: int, body: str, author: str = "someone", id_: int = 1) -> dict[str, Any]:
    return {"id": number, "body": body, "user": {"login": author}, "author": {"id": id_}}


@pytest.fixture
def host() -> Iterator[tuple[Host, Server]]:
    strangers = [build_comment(number, f"{MARKER}\nall is well") for number in range(1, 103)]
    found = Host(strangers)
    with serve(found.answer) as server:
        yield found, server


def set_github(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, port: int, event: object) -> None:
    (tmp_path / "event.json").write_text(json.dumps(event))
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_EVENT_PATH", str(tmp_path / "event.json"))
    monkeypatch.setenv("GITHUB_REPOSITORY", "team/model")
    monkeypatch.setenv("GITHUB_API_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("GITHUB_TOKEN", TOKEN)


def set_gitlab(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.setenv("GITLAB_CI", "true")
    monkeypatch.setenv("CI_PROJECT_ID", "3")
    monkeypatch.setenv("CI_MERGE_REQUEST_IID", "5")
    monkeypatch.setenv("CI_API_V4_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("EXCISE_GITLAB_TOKEN", TOKEN)


@pytest.mark.parametrize("kind", ["github", "gitlab"])
def test_one_comment_is_written_and_then_updated(
    kind: str,
    report: Path,
    tmp_path: Path,
    host: tuple[Host, Server],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, server = host
    if kind == "github":
        set_github(monkeypatch, tmp_path, server.port, {"pull_request": {"number": 5}})
    else:
        set_gitlab(monkeypatch, server.port)
    before = [dict(comment) for comment in found.comments]
    first = run("post", report)
    assert (first.exit_code, first.stdout) == (0, "wrote a comment\n"), first.output
    assert len(found.comments) == 103
    assert found.comments[-1]["body"].startswith(f"{MARKER}\n\n### ❌")
    report.write_text(build(MET, outcome="passed").model_dump_json())
    assert run("post", report).stdout == "updated the comment\n"
    assert found.comments[:-1] == before, "a stranger's comment with our first line is not ours"
    assert found.comments[-1]["body"].startswith(f"{MARKER}\n\n### ✅")
    assert run("post").stdout == "updated the comment\n"
    assert found.comments[-1]["body"].startswith(f"{MARKER}\n\n### ⚠️ Excise: no verdict")
    header = "Authorization" if kind == "github" else "PRIVATE-TOKEN"
    assert all(TOKEN in request.headers[header] for request in server.requests)
    assert all(TOKEN.encode() not in request.body for request in server.requests)


def test_a_pipeline_about_no_pull_request_posts_nothing(
    report: Path, tmp_path: Path, host: tuple[Host, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    set_github(monkeypatch, tmp_path, host[1].port, {"ref": "refs/heads/main"})
    result = run("post", report)
    assert result.exit_code == 0
    assert "has no pull request" in result.stderr
    assert host[1].requests == []


def test_a_token_without_the_right_is_told_so_and_not_shown(
    report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(lambda request: Reply(b"{}", status=403)) as server:
        set_github(monkeypatch, tmp_path, server.port, {"pull_request": {"number": 5}})
        result = run("post", report)
    assert result.exit_code == 1
    assert "answered 403. Give the token the right to write comments" in result.stderr
    assert TOKEN not in result.output


def test_elsewhere_it_says_what_to_do(report: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITLAB_CI"):
        monkeypatch.delenv(name, raising=False)
    result = run("post", report)
    assert result.exit_code == 1
    assert "excise ci comment" in result.stderr


def test_nothing_of_it_needs_torch(report: Path) -> None:
    code = (
        "import sys\nfrom excise.cli.app import app\n"
        "try:\n    app(['ci', 'comment', sys.argv[1]])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "assert not {'torch', 'transformers', 'numpy', 'fastapi'} & set(sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(report)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("verdict", "code"), [("passed", 0), ("rejected", 100)])
def test_a_job_ends_as_its_verdict_and_leaves_junit(
    service: FakeService,
    url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verdict: str,
    code: int,
) -> None:
    monkeypatch.setattr(ci_job, "_treat_termination_as_interrupt", lambda: None)
    service.verdict = verdict
    spec, out = tmp_path / "job.json", tmp_path / "out"
    spec.write_text(json.dumps({"kind": "correction", "model": "m"}))
    result = run("job", spec, "--output", out, "--url", url)
    assert result.exit_code == code, result.output
    assert (out / "job-id").read_text() == "job_1\n"
    assert ElementTree.fromstring((out / "excise.xml").read_bytes()).find("testsuite") is not None
    assert run("comment", out / "report.json").exit_code == 0


def test_a_job_without_a_verdict_ends_with_1_and_leaves_no_earlier_one(
    service: FakeService, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ci_job, "_treat_termination_as_interrupt", lambda: None)
    service.final_status = "failed"
    spec, out = tmp_path / "job.json", tmp_path / "out"
    spec.write_text(json.dumps({"kind": "correction", "model": "m"}))
    out.mkdir()
    for name in (*JobFile, "excise.xml", "job-id", "mine"):
        (out / name).write_text("of an earlier run")
    result = run("job", spec, "--output", out, "--url", url)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: job_1")
    assert {path.name for path in out.iterdir()} == {"job-id", "mine"}
    assert (out / "job-id").read_text() == "job_1\n"


def test_a_job_that_cannot_be_read_leaves_no_earlier_verdict(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ci_job, "_treat_termination_as_interrupt", lambda: None)
    spec, out = tmp_path / "job.json", tmp_path / "out"
    spec.write_text("{")
    out.mkdir()
    (out / "report.json").write_text("of an earlier run")
    (out / "excise.xml").mkdir()
    result = run("job", spec, "--output", out, "--url", url)
    assert result.exit_code == 1
    assert "excise.xml cannot be removed" in result.stderr
    (out / "excise.xml").rmdir()
    assert "is not JSON" in run("job", spec, "--output", out, "--url", url).stderr
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("missing", ["job.json", "prompts.txt", "reference.txt", "corpus.txt"])
def test_a_file_that_is_missing_leaves_no_earlier_verdict(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setattr(ci_job, "_treat_termination_as_interrupt", lambda: None)
    monkeypatch.chdir(tmp_path)
    for name in ("job.json", "prompts.txt", "reference.txt", "corpus.txt"):
        Path(name).write_text("{}")
    Path(missing).unlink()
    out = tmp_path / "out"
    out.mkdir()
    for name in (*JobFile, "excise.xml", "job-id"):
        (out / name).write_text("of an earlier run")
    files = ("--prompts", "prompts.txt", "--reference", "reference.txt")
    result = run("job", "job.json", *files, "--perplexity", "corpus.txt", "--output", out)
    assert result.exit_code == 1
    assert result.stderr == f"error: There is no file {missing}. Check its spelling.\n"
    assert list(out.iterdir()) == []
