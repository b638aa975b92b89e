"""Output of commands: exit codes, errors, and untrusted text."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar, cast

import typer
from pydantic import BaseModel
from rich.console import Console

from excise.errors import UserError
from excise.names import JobStatus, Verdict
from excise.plain_text import clean as clean
from excise.plain_text import is_hidden
from excise.redaction import find_secrets, redact, register_secrets
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


class Aside(io.TextIOBase):
    """Standard output or error for what is said beside the work, such as its progress.

    If nobody reads it, or its disk is full, it is dropped, and the work goes on to its exit code.
    """

    def __init__(self, target: TextIO) -> None:
        self._target = target

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The target's encoding."""
        return self._target.encoding

    def write(self, text: str) -> int:
        """Pass on the text, or drop it."""
        self._try(lambda: self._target.write(text))
        return len(text)

    def flush(self) -> None:
        """Pass on what the target's buffer holds, or drop it."""
        self._try(self._target.flush)

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether the target is a terminal."""
        return self._target.isatty()

    def fileno(self) -> int:
        """Return the target's file descriptor."""
        return self._target.fileno()

    def _try(self, pass_on: Callable[[], object]) -> None:
        try:
            pass_on()
        except OSError:
            discard_output(self._target)


def build_console(*, to_stderr: bool = False, is_aside: bool = False) -> Console:
    """Return a console; without a terminal, it prints plain text of a fixed width.

    With `is_aside`, and always on standard error, it prints what is said beside the work.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    is_terminal = stream.isatty()
    return Console(
        file=cast(TextIO, Aside(stream)) if is_aside or to_stderr else stream,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=not is_terminal,
        width=None if is_terminal else _PLAIN_WIDTH,
        color_system="auto" if is_terminal else None,
    )


def print_error(message: str, param: str | None = None) -> None:
    """Print `error: <message> (field: <param>)` to standard error, with secrets redacted."""
    field = f" (field: {clean(param)})" if param else ""
    print_aside(f"error: {message}{field}", keep_lines=True)


def print_aside(text: str, *, keep_lines: bool = False) -> None:
    """Print what is said beside the work to standard error: cleaned, with secrets redacted."""
    print(clean(redact(text), keep_lines=keep_lines), file=Aside(sys.stderr), flush=True)


def print_line(text: str) -> None:
    """Print one message to standard output and flush it."""
    print(text, file=sys.stdout, flush=True)


def print_done(text: str) -> None:
    """Print to standard output that the work is done; the work counts even if printing fails."""
    print(clean(text), file=Aside(sys.stdout), flush=True)


@contextmanager
def printed_after_work(place: Path | str) -> Iterator[None]:
    """Return a context in which printing may fail, because its reader is gone or a disk is full.

    The work is done and its result is in `place`, so the exit code stays that of the work.
    """
    try:
        yield
    except OSError as error:
        discard_output(sys.stdout)
        print_aside(f"the result could not be printed ({error.strerror}); it is in {place}")


@contextmanager
def shown_once(remedy: str) -> Iterator[None]:
    """Return a context that raises `CommandError`, with the remedy, if printing a secret fails."""
    try:
        yield
    except OSError as error:
        discard_output(sys.stdout)
        raise CommandError(
            f"The secret, which is shown only once, could not be printed: {error.strerror}. "
            f"{remedy}"
        ) from None


def discard_output(stream: TextIO) -> None:
    """Send the stream to the null device, so that flushing its buffer at exit cannot fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        with suppress(OSError):  # a stream of a program, not of the system
            os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)


def print_json(value: Any, *, on_one_line: bool = False) -> None:
    """Print a value as JSON to standard output; what a terminal would obey or hide is escaped."""
    if on_one_line:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    else:
        text = json.dumps(value, ensure_ascii=False, indent=2)
    shown = (json.dumps(one)[1:-1] if one != "\n" and is_hidden(one) else one for one in text)
    print("".join(shown), flush=True)


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
        print_aside(f"more: --after {page.data[-1].id}")


def format_time(moment: datetime | None) -> str:
    """Return a time to the second, or `-` for None."""
    return "-" if moment is None else moment.strftime("%Y-%m-%d %H:%M:%S")


def keep_secrets() -> Callable[[str], str]:
    """Return a function that removes the pipeline's secrets from a text."""
    register_secrets(find_secrets(os.environ))
    return redact


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
