"""`excise ci`: commands for pipelines, besides `excise gate`. They need no torch.

All except `job` read a gate.json of `excise gate` or the report.json of a job.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from excise.cli.ci_job import run_job
from excise.cli.ci_posting import find_thread, post_comment
from excise.cli.output import CommandError, keep_secrets, print_aside, print_done
from excise.intake.local_files import read_file
from excise.reports.annotations import list_annotations
from excise.reports.comment import CommentOptions, render_comment, render_no_verdict
from excise.reports.junit import render_junit
from excise.reports.reading import Report, read_report

app = typer.Typer(
    no_args_is_help=True,
    help="For pipelines: a job, and a comment, annotations and JUnit of a report.",
)

ReportArgument = Annotated[
    Path,
    typer.Argument(
        metavar="REPORT", exists=True, dir_okay=False, help="gate.json, or a job's report.json."
    ),
]
CommentedArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[REPORT]",
        exists=True,
        dir_okay=False,
        help="gate.json, or a job's report.json; without it: there is no verdict.",
    ),
]
IdOption = Annotated[
    str, typer.Option("--id", help="Tells this comment from others on the same pull request.")
]
LinkOption = Annotated[
    list[str] | None, typer.Option("--link", metavar="NAME=URL", help="A link; repeatable.")
]
ResponsesOption = Annotated[
    bool, typer.Option("--responses/--no-responses", help="Show what the models answered.")
]


app.command("job")(run_job)


@app.command("comment")
def comment(
    report: CommentedArgument = None,
    identifier: IdOption = "excise",
    link: LinkOption = None,
    responses: ResponsesOption = True,
) -> None:
    """Print the Markdown of a pull request's comment."""
    options = _build_options(identifier, link or [], responses)
    sys.stdout.buffer.write(_render(report, options).encode())


@app.command("post")
def post(
    report: CommentedArgument = None,
    identifier: IdOption = "excise",
    link: LinkOption = None,
    responses: ResponsesOption = True,
    author: Annotated[
        str, typer.Option(help="Who writes the comment on GitHub: the owner of the token.")
    ] = "github-actions[bot]",
) -> None:
    """Write the comment on the pull request (GitHub) or merge request (GitLab) of this pipeline.

    A comment written by an earlier run is updated. If the pipeline has no pull request, the command
    says so. The token comes from GITHUB_TOKEN, or on GitLab from EXCISE_GITLAB_TOKEN.
    """
    options = _build_options(identifier, link or [], responses)
    body = _render(report, options)
    thread = find_thread(os.environ, author)
    if thread is None:
        print_aside("this pipeline has no pull request: nothing to comment on")
        return
    print_done(post_comment(thread, options.marker, body))


@app.command("annotations")
def print_annotations(report: ReportArgument) -> None:
    """Print an `::error` line for every unmet gate, which GitHub reads from the log."""
    clean = keep_secrets()
    for line in list_annotations(_read(report), clean):
        print(line)


@app.command("junit")
def junit(report: ReportArgument) -> None:
    """Print the gates as JUnit XML."""
    clean = keep_secrets()
    sys.stdout.buffer.write(render_junit(_read(report).gates, "excise", clean=clean))


def _render(path: Path | None, options: CommentOptions) -> str:
    if path is None:
        return render_no_verdict(options)
    return render_comment(_read(path), options, keep_secrets())


def _read(path: Path) -> Report:
    """Return the report in a file. Raises `CommandError` and `ReportError`."""
    try:
        return read_report(read_file(path))
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}.") from None


def _build_options(identifier: str, links: list[str], responses: bool) -> CommentOptions:
    """Return the options of a comment. Raises `CommandError`."""
    pairs = []
    for entry in links:
        name, separator, url = entry.partition("=")
        if not separator:
            raise CommandError(f"--link {entry} is not NAME=URL.")
        pairs.append((name, url))
    try:
        return CommentOptions(identifier, tuple(pairs), responses)
    except ValueError as error:
        raise CommandError(f"{error}.") from None
