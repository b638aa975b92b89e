"""`excise prompts`, `submit`, `watch`, `report`, `jobs`, `cancel`: clients of the REST API."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from excise.cli.connection import DEFAULT_URL, JsonOption, UrlOption, open_client
from excise.cli.estimates import end_with_estimate
from excise.cli.job_files import fetch_job_files, require_room
from excise.cli.output import (
    CommandError,
    ExitCode,
    build_console,
    end_with,
    exit_code_of,
    print_aside,
    print_done,
    print_error,
    printed_after_work,
    show,
)
from excise.cli.progress import follow_job
from excise.cli.report_summary import print_report, require_own_verdict
from excise.cli.set_options import ALL_OPTIONS, naming_options
from excise.client import ApiError, Client, ConnectionLostError
from excise.intake.duplicates import DuplicateKeyError
from excise.intake.json_documents import find_part, is_non_finite, load_json
from excise.intake.local_files import read_file
from excise.names import OPEN_STATUSES, JobStatus, ReportFormat
from excise.reports import read_report
from excise.resources.jobs import JobView
from excise.specs.complaints import LEAST_LIKENESS

prompts_app = typer.Typer(no_args_is_help=True, help="Prompt sets.")


def _file_option(text: str) -> Any:
    """Return an option whose value is an existing file."""
    return typer.Option(exists=True, dir_okay=False, readable=True, help=text)


OutputOption = Annotated[
    Path | None, typer.Option(help="Folder for the job's files.", file_okay=False)
]
JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="A job's id.")]


@prompts_app.command("upload")
def upload_prompts(
    file: Annotated[
        Path,
        typer.Argument(exists=True, dir_okay=False, readable=True, help="Text, or JSON lines."),
    ],
    name: Annotated[str | None, typer.Option(help="By default, the file's name.")] = None,
    rows: Annotated[
        bool, typer.Option("--rows", help="The JSON lines are rows of a task, not prompts.")
    ] = False,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Upload a file of prompts (one per line, or JSON lines) or of rows, and print the set's id."""
    with open_client(url) as client:
        prompt_set = client.upload_prompt_set(file, name, is_rows=rows)
    show(prompt_set, as_json, lambda made: print(made.id))


def submit(
    spec: Annotated[
        Path,
        typer.Argument(
            metavar="SPEC.json", exists=True, dir_okay=False, help="The job, as the API takes it."
        ),
    ],
    prompts: Annotated[
        Path | None, _file_option("Prompts of the first behaviour; uploaded as its prompt set.")
    ] = None,
    reference: Annotated[
        Path | None, _file_option("Text to preserve; uploaded as the spec's reference.")
    ] = None,
    perplexity: Annotated[
        Path | None, _file_option("The corpus whose perplexity is measured.")
    ] = None,
    rows: Annotated[
        Path | None, _file_option("JSON lines of your own task; uploaded as a circuit's task.")
    ] = None,
    calibration: Annotated[
        Path | None, _file_option("The text that a compression is calibrated on.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="NAME=FILE: rows of a zero-shot task; repeatable.")
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Only estimate what the job would need.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the verdict.")] = False,
    output: OutputOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Submit a job. With --wait the exit code is the verdict: 0 passed, 100 not, 1 anything else.

    --prompts, --reference, --perplexity, --rows (of a circuit's task), --calibration and --task
    upload a file and put its id into the spec. --estimate submits nothing, and ends with 0 where
    the job fits.
    """
    body = load_spec(spec)
    require_room(output if wait else None)
    with open_client(url, is_waiting=wait) as client:
        fill_in_prompt_sets(client, body, prompts, reference, perplexity)
        fill_in_rows(client, body, rows, calibration, task or [])
        with naming_options(ALL_OPTIONS):
            if estimate:
                end_with_estimate(client.estimate_job(body), as_json=as_json)
            job = client.create_job(body)
        if wait:
            _wait_and_end(client, job, output, as_json)
    show(job, as_json, lambda made: print(made.id))


def watch(
    job_id: JobArgument,
    output: OutputOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Follow a job to its end; the exit code is the verdict."""
    require_room(output)
    with open_client(url, is_waiting=True) as client:
        _wait_and_end(client, client.get_job(job_id), output, as_json)


def report(
    job_id: JobArgument,
    report_format: Annotated[
        ReportFormat | None, typer.Option("--format", help="Print the report itself.")
    ] = None,
    output: OutputOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """Show a job's report; with --output, download all the job's files."""
    with open_client(url) as client:
        if output is not None:
            paths = fetch_job_files(client, client.get_job(job_id), output)
            print_aside("\n".join(map(str, paths)), keep_lines=True)
        chosen = ReportFormat.JSON if as_json else report_format
        content = client.fetch_report(job_id, chosen or ReportFormat.JSON)
    if chosen is not None:
        sys.stdout.buffer.write(content if content.endswith(b"\n") else content + b"\n")
    else:
        print_report(read_report(content), build_console())


def cancel(job_id: JobArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False) -> None:
    """Cancel a job; a running one stops at its next step."""
    with open_client(url) as client:
        job = client.cancel_job(job_id)
    said = "cancelled" if job.status is JobStatus.CANCELLED else "cancelling"
    show(job, as_json, lambda _: print(said))


def delete(
    job_id: JobArgument,
    files: Annotated[
        bool, typer.Option("--files", help="Only the job's files; the job stays on record.")
    ] = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Delete a job that has ended, with its files, or only its files."""
    with open_client(url) as client:
        if files:
            client.delete_artifacts(job_id)
        else:
            client.delete_job(job_id)
    print_done(f"deleted {'the files of ' if files else ''}{job_id}")


@prompts_app.command("delete")
def delete_prompt_set(
    prompt_set_id: Annotated[str, typer.Argument(help="The set's id.")],
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Delete a prompt set that no open job needs."""
    with open_client(url) as client:
        client.delete_prompt_set(prompt_set_id)
    print_done(f"deleted {prompt_set_id}")


def load_spec(path: Path) -> dict[str, Any]:
    """Return the job spec in a file. Raises `CommandError`."""
    try:
        spec = load_json(read_file(path).decode("utf-8-sig"))
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from None
    except DuplicateKeyError as error:
        raise CommandError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{path} is not JSON: {error}.") from None
    if not isinstance(spec, dict):
        raise CommandError(
            f"{path} does not hold a JSON object. See docs/guides/api.md for the spec."
        )
    require_sendable(spec)
    return spec


def require_sendable(spec: dict[str, Any]) -> None:
    """Raise `CommandError` for a spec with values that no request can hold, by their place."""
    if place := find_part(spec, is_non_finite, "spec"):
        raise CommandError(f"{place} is not a finite number, which JSON cannot hold.")
    if place := find_part(spec, _is_broken_text, "spec"):
        raise CommandError(f"{place} holds half of a surrogate pair, which is no text.")


def _is_broken_text(value: object) -> bool:
    return isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value)


def fill_in_prompt_sets(
    client: Client,
    spec: dict[str, Any],
    prompts: Path | None = None,
    reference: Path | None = None,
    perplexity: Path | None = None,
) -> None:
    """Upload the given files and put the ids of their sets into the spec."""
    if prompts is not None:
        behaviours = spec.get("behaviours")
        if not isinstance(behaviours, list) or not behaviours or type(behaviours[0]) is not dict:
            near = get_close_matches("behaviours", () if behaviours else spec, 1, LEAST_LIKENESS)
            hint = f" {near[0]} is not a known field: did you mean behaviours?" if near else ""
            raise CommandError(
                f"--prompts needs a spec with one behaviour.{hint}", param="behaviours"
            )
        behaviours[0]["prompts"] = client.upload_prompt_set(prompts).id
    if reference is not None:
        spec["reference"] = client.upload_prompt_set(reference).id
    if perplexity is not None:
        settings = spec.get("perplexity") or {}
        if not isinstance(settings, dict):
            raise CommandError("perplexity must be an object.", param="perplexity")
        spec["perplexity"] = {**settings, "prompts": client.upload_prompt_set(perplexity).id}


def fill_in_rows(
    client: Client,
    spec: dict[str, Any],
    rows: Path | None,
    calibration: Path | None,
    tasks: list[str],
) -> None:
    """Do the same for the files of circuit and compression jobs. Raises `CommandError`."""
    if rows is not None:
        spec["task"] = client.upload_prompt_set(rows, is_rows=True).id
    if calibration is not None:
        settings = spec.get("calibration") or {}
        if not isinstance(settings, dict):
            raise CommandError("calibration must be an object.", param="calibration")
        spec["calibration"] = {**settings, "prompts": client.upload_prompt_set(calibration).id}
    for entry in tasks:
        name, _, file = entry.partition("=")
        path = Path(file)
        if not name or not path.is_file():
            raise CommandError(f"--task {entry} is not NAME=FILE with a file that exists.")
        listed = spec.setdefault("tasks", [])
        if not isinstance(listed, list):
            raise CommandError("tasks must be a list.", param="tasks")
        found = next((t for t in listed if isinstance(t, dict) and t.get("name") == name), None)
        if found is None:
            listed.append(found := {"name": name})
        found["rows"] = client.upload_prompt_set(path, is_rows=True).id


def _wait_and_end(client: Client, job: JobView, output: Path | None, as_json: bool) -> None:
    """Follow the job, download its files, show the result, and exit with its code."""
    console = build_console(to_stderr=as_json, is_aside=True)
    end_of_job(follow_to_end(client, job, console, output, as_json=as_json))


def follow_to_end(
    client: Client, job: JobView, console: Console, output: Path | None, *, as_json: bool
) -> JobView:
    """Follow the job to its end, download its files and show its result; return the job.

    If the result cannot be printed, the exit code is still the job's. Raises `CommandError`, which
    says how to get back to the job, if the service stops answering before.
    """
    try:
        if job.status in OPEN_STATUSES:
            print(f"job {job.id}", file=console.file, flush=True)
        job = follow_job(client, job, console)
    except KeyboardInterrupt:
        print_aside(f"The job continues. excise watch {job.id}, or: excise cancel {job.id}")
        raise
    except (ConnectionLostError, ApiError) as error:
        if isinstance(error, ApiError) and error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        raise CommandError(
            f"{error.message} The job goes on without this command: excise watch {job.id}"
        ) from error
    paths = fetch_job_files(client, job, output) if output is not None else []
    with printed_after_work(f"the service: excise report {job.id}"):
        show(job, as_json, lambda ended: _show_outcome(client, ended, console, paths))
    return job


def end_of_job(job: JobView) -> NoReturn:
    """Exit with the job's code; if there is no verdict, say why."""
    if exit_code_of(job) is ExitCode.ERROR:
        print_error(explain_end(job), job.error.param if job.error else None)
    end_with(exit_code_of(job))


def _show_outcome(client: Client, job: JobView, console: Console, paths: list[Path]) -> None:
    """Print the report's summary, if there is a report, and the paths of the files."""
    try:
        found = read_report(client.fetch_report(job.id))
    except ApiError as error:
        if error.status not in {404, 409}:  # a job without a verdict has no report
            raise
    else:
        require_own_verdict(found, job)
        print_report(found, console)
    for path in paths:
        print(path, file=console.file)


def explain_end(job: JobView) -> str:
    """Return why a job ended without a verdict."""
    if job.status is JobStatus.CANCELLED:
        return f"{job.id} was cancelled."
    if job.error is not None:
        return f"{job.id} failed: {job.error.message} ({job.error.code})"
    return f"{job.id} ended as {job.status} with the verdict {job.verdict}."
