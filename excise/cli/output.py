"""Output of commands: exit codes, errors, and untrusted text."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

import typer
from pydantic import BaseModel
from rich.console import Console

from excise.errors import UserError
from excise.names import JobStatus, Verdict
from excise.redaction import redact
from excise.resources.jobs import JobList, JobView
from excise.resources.serving import VersionList
from excise.resources.webhooks import DeliveryList, WebhookList

_PLAIN_WIDTH = 110


_Model = TypeVar("_Model", bound=BaseModel)
_Page = TypeVar("_Page", JobList, VersionList, WebhookList, DeliveryList)


class ExitCode(IntEnum):
    """How a command ended; the exit code always agrees with the verdict."""

    PASSED = 0
    ERROR = 1
    GATES_NOT_MET = 100
    INTERRUPTED = 130


class CommandError(UserError):
    """A command cannot do what it was asked to do."""


def build_console(*, to_stderr: bool = False) -> Console:
    """Return a console; without a terminal, it prints plain text of a fixed width."""
    stream = sys.stderr if to_stderr else sys.stdout
    is_terminal = stream.isatty()
    return Console(
        file=stream,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=not is_terminal,
        width=None if is_terminal else _PLAIN_WIDTH,
        color_system="auto" if is_terminal else None,
    )


def print_error(message: str, param: str | None = None) -> None:
    """Print `error: <message> (field: <param>)` to standard error, with secrets redacted."""
    message = redact(message)
    field = f" (field: {clean(param)})" if param else ""
    print(f"error: {clean(message, keep_lines=True)}{field}", file=sys.stderr, flush=True)


def print_line(text: str) -> None:
    """Print one message to standard output and flush it."""
    print(text, file=sys.stdout, flush=True)


@contextmanager
def printed_after_work(output: Path) -> Iterator[None]:
    """Go on where nobody reads what is printed, or its disk is full: all of it is in `output`.

    So the exit code is that of the work, which is done.
    """
    try:
        yield
    except OSError as error:
        discard_output(sys.stdout)
        try:
            message = f"the result could not be printed ({error.strerror}); it is in {output}"
            print(clean(message), file=sys.stderr, flush=True)
        except OSError:
            discard_output(sys.stderr)


def discard_output(stream: TextIO) -> None:
    """Send the stream to nowhere: what its buffer holds must not fail again at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        with suppress(OSError):  # a stream of a program, not of the system
            os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)


def print_json(value: Any) -> None:
    """Print a value as JSON to standard output."""
    print(json.dumps(value, ensure_ascii=False, indent=2), flush=True)


def show(found: _Model, as_json: bool, describe: Callable[[_Model], object]) -> None:
    """Print the result of a call: as JSON for programs, or with `describe` for people."""
    if as_json:
        print_json(found.model_dump(mode="json"))
    else:
        describe(found)


def show_page(page: _Page, as_json: bool, describe: Callable[[_Page], object]) -> None:
    """Print one page of a list; tell people, on standard error, how to get the next one."""
    show(page, as_json, describe)
    if page.has_more and not as_json:
        print(f"more: --after {page.data[-1].id}", file=sys.stderr)


def format_time(moment: datetime | None) -> str:
    """Return a time to the second, or `-` for None."""
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S")


def clean(text: str, *, keep_lines: bool = False) -> str:
    """Return `text` without terminal control characters, which model output may contain."""
    kept = {"\n"} if keep_lines else set()
    return "".join(
        character
        if character in kept or unicodedata.category(character) not in {"Cc", "Cf", "Cs"}
        else " "
        for character in text
    )


def exit_code_of(job: JobView) -> ExitCode:
    """Return the exit code of a command that waited for `job`."""
    if job.status is JobStatus.SUCCEEDED and job.verdict is Verdict.PASSED:
        return ExitCode.PASSED
    if job.status is JobStatus.REJECTED and job.verdict in {Verdict.REJECTED, Verdict.NO_EFFECT}:
        return ExitCode.GATES_NOT_MET
    return ExitCode.ERROR


def end_with(code: ExitCode) -> NoReturn:
    """Exit the command with this code."""
    raise typer.Exit(int(code))
