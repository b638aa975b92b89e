"""`excise ci job`: runs a job from submission to files, and cancels it with the pipeline.

The service is one that is running, or one that is started here for the duration of the job.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any
from uuid import uuid4

import httpx
import typer
from rich.text import Text

from excise.cli.connection import DEFAULT_URL, UrlOption, open_client
from excise.cli.job_files import clear_job_files, fetch_job_files, require_room
from excise.cli.jobs import end_of_job, fill_in_prompt_sets, load_spec
from excise.cli.output import CommandError, build_console, keep_secrets, print_aside
from excise.cli.progress import follow_job
from excise.cli.report_summary import print_report, require_own_verdict
from excise.cli.set_options import CORRECTION_OPTIONS, naming_options
from excise.client import Client, ClientError
from excise.names import JobFile
from excise.reports.junit import render_junit
from excise.reports.reading import read_report
from excise.resources.jobs import JobView
from excise.whole_files import write_whole

JUNIT_NAME = "excise.xml"
ID_NAME = "job-id"
"""File with the job's id, with which it can be cancelled if this process was killed."""

START_SECONDS = 600.0
"""Time limit for a service started here to become ready. Chosen by hand."""

_LOG_CHARACTERS = 2000


def run_job(
    spec: Annotated[Path, typer.Argument(metavar="SPEC.json", help="The job.")],
    output: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for the job's files and JUnit.")
    ] = Path("excise-output"),
    prompts: Annotated[Path | None, typer.Option(help="As `submit` takes it.")] = None,
    reference: Annotated[Path | None, typer.Option(help="As `submit` takes it.")] = None,
    perplexity: Annotated[Path | None, typer.Option(help="As `submit` takes it.")] = None,
    embedded: Annotated[
        bool, typer.Option("--embedded", help="Start the service here; the home is EXCISE_HOME.")
    ] = False,
    url: UrlOption = DEFAULT_URL,
) -> None:
    """Run a job and fetch its files. Ends with 0, 100 or 1, as `submit --wait` does.

    Files of an earlier job are removed from the folder before anything else. Ctrl-C, SIGTERM and
    SIGHUP cancel the job before this ends.
    """
    _treat_termination_as_interrupt()
    clear_job_files(output, JUNIT_NAME, ID_NAME)
    _require_files(spec, prompts, reference, perplexity)
    body = load_spec(spec)
    require_room(output)
    output.mkdir(parents=True, exist_ok=True)
    with (
        _find_service(url, output, embedded=embedded) as address,
        open_client(address, is_waiting=True) as client,
    ):
        fill_in_prompt_sets(client, body, prompts, reference, perplexity)
        job = _run_or_cancel(client, body, output)
        paths = fetch_job_files(client, job, output)
    if (report := output / JobFile.REPORT) in paths:
        found = read_report(report.read_bytes())
        require_own_verdict(found, job)
        write_whole(output / JUNIT_NAME, render_junit(found.gates, "excise", clean=keep_secrets()))
        print_report(found, build_console(is_aside=True))
    end_of_job(job)


def _require_files(*paths: Path | None) -> None:
    """Raise `CommandError` for a path that is no file.

    Not left to typer, which would say so before files of an earlier job are removed.
    """
    for path in paths:
        if path is not None and (path.is_dir() or not path.exists()):
            raise CommandError(f"There is no file {path}. Check its spelling.")


def _run_or_cancel(client: Client, body: dict[str, Any], output: Path) -> JobView:
    """Return the job once it has ended; if interrupted, cancel it and re-raise the interrupt."""
    key = uuid4().hex  # submitting again with the same key gives the same job
    try:
        with naming_options(CORRECTION_OPTIONS):
            job = client.create_job(body, idempotency_key=key)
        (output / ID_NAME).write_text(f"{job.id}\n")
        console = build_console(is_aside=True)  # the pipeline reads files and exit code
        console.print(Text(f"job {job.id}"))
        return follow_job(client, job, console)
    except KeyboardInterrupt:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # a second signal must not stop the cancellation
        _cancel(client, body, key)
        raise


def _cancel(client: Client, body: dict[str, Any], key: str) -> None:
    """Cancel the job that was submitted with `key`, even if its id has not arrived."""
    try:
        job = client.create_job(body, idempotency_key=key)
        client.cancel_job(job.id)
        print_aside(f"job {job.id} was cancelled")
    except ClientError as error:
        print_aside(f"the job could not be cancelled: {error}")


@contextmanager
def _find_service(url: str, output: Path, *, embedded: bool) -> Iterator[str]:
    """Yield the address of the service: `url`, or that of one that runs within the context."""
    if not embedded:
        yield url
        return
    port = _find_port()
    address, log = f"http://127.0.0.1:{port}", output / "service.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*_PROGRAM, "up", "--port", str(port)], stdout=file, stderr=subprocess.STDOUT
        )
    try:
        _wait_until_ready(process, address, log)
        os.environ["EXCISE_API_KEY"] = _make_key()
        yield address
    finally:
        process.terminate()
        process.wait()


_PROGRAM = (sys.executable, "-m", "excise.cli.app")


def _find_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    """Return once the service accepts jobs. Raises `CommandError` if it never will."""
    deadline = time.monotonic() + START_SECONDS
    with httpx.Client(trust_env=False, timeout=5) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                end = log.read_text(errors="replace")[-_LOG_CHARACTERS:].strip()
                raise CommandError(f"The service did not start: {end}")
            try:
                if client.get(f"{address}/readyz").is_success:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.5)
    raise CommandError(f"The service was not ready after {START_SECONDS:g} s; see {log}.")


def _make_key() -> str:
    """Return a new API key of the service that runs here. Raises `CommandError`."""
    made = subprocess.run(
        [*_PROGRAM, "keys", "create", "--name", "ci"], capture_output=True, text=True, check=False
    )
    if made.returncode != 0:
        raise CommandError(f"No key could be made: {made.stderr.strip()}")
    return made.stdout.strip()


def _treat_termination_as_interrupt() -> None:
    """Make SIGTERM and SIGHUP end the command like Ctrl-C, even if SIGINT was ignored."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
