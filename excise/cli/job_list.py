"""`excise jobs`: lists jobs and shows single ones."""

from __future__ import annotations

import typer
from rich.table import Table

from excise.cli.connection import (
    DEFAULT_URL,
    AfterOption,
    JsonOption,
    LimitOption,
    UrlOption,
    open_client,
)
from excise.cli.jobs import JobArgument, explain_end
from excise.cli.output import build_console, clean, format_time, show, show_page
from excise.cli.progress import format_seconds
from excise.cli.tables import print_table
from excise.names import JobStatus
from excise.resources.jobs import JobList, JobView

jobs_app = typer.Typer(help="List jobs, newest first, or show one.")


@jobs_app.callback(invoke_without_command=True)
def list_jobs(
    context: typer.Context,
    limit: LimitOption = 20,
    after: AfterOption = None,
    url: UrlOption = DEFAULT_URL,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first, or show one."""
    if context.invoked_subcommand is not None:
        return
    with open_client(url) as client:
        page = client.list_jobs(after=after, limit=limit)
    show_page(page, as_json, _print_jobs)


@jobs_app.command("show")
def show_job(
    job_id: JobArgument, url: UrlOption = DEFAULT_URL, as_json: JsonOption = False
) -> None:
    """Show a job: its progress, the duration of its stages, and what it was estimated to need."""
    with open_client(url) as client:
        job = client.get_job(job_id)
    show(job, as_json, _print_job)


def _print_jobs(page: JobList) -> None:
    table = Table("id", "status", "verdict", "stage", "model", "created", box=None)
    for job in page.data:
        verdict, stage, created = job.verdict or "-", job.stage or "-", format_time(job.created_at)
        table.add_row(job.id, job.status, verdict, stage, clean(job.model), created)
    print_table(table, build_console())


def _print_job(job: JobView) -> None:
    for line in _describe(job):
        print(clean(line))


def _describe(job: JobView) -> list[str]:
    """Return the lines that describe a job to a user."""
    lines = [
        f"{job.id}: {job.kind} of {job.model}, {job.status}"
        + (f", {job.verdict}" if job.verdict else ""),
        *(f"{stage.name:<12} {stage.status}{_took(stage.seconds)}" for stage in job.stages),
    ]
    if job.status is JobStatus.FAILED:
        lines.append(explain_end(job))
    if job.estimate is not None:
        lines += ["", "What it was estimated to take:", *str(job.estimate).splitlines()]
    return lines


def _took(seconds: float | None) -> str:
    return "" if seconds is None else f", {format_seconds(seconds)}"
