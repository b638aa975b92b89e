"""`excise up`, `demo`, `migrate`, `version`: running Excise itself."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as find_version
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from service.commands.connection import find_database_url, find_home
from service.commands.output import CommandError, ExitCode, end_with
from service.database import upgrade_to_head
from service.demo import DemoOptions, run_demo
from service.embedded import EmbeddedStack
from service.embedded.stack import DEFAULT_PORT


def up(
    host: Annotated[str, typer.Option(help="Address the API listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = DEFAULT_PORT,
    workers: Annotated[int, typer.Option(min=1, max=64)] = 1,
) -> None:
    """Run the whole service here, in the foreground, until Ctrl-C.

    Data and logs are kept in EXCISE_HOME (.excise by default). EXCISE_DATABASE_URL and
    EXCISE_BROKER_URL, where set, name servers to use instead of the embedded ones.
    """
    treat_termination_as_interrupt()
    stack = EmbeddedStack(find_home(), host=host, port=port, workers=workers, report=print_line)
    try:
        with stack:
            print_line(
                f"\nExcise answers at {stack.url} (API page: {stack.url}/docs)\n"
                "In another terminal, make a key and tell the client:\n"
                f"  export EXCISE_HOME={stack.home} EXCISE_URL={stack.url}\n"
                f"  export EXCISE_API_KEY=$({find_program()} keys create)\n"
                f"Logs: {stack.home / 'logs'}. Ctrl-C stops everything."
            )
            stack.wait()
    except KeyboardInterrupt:
        print_line("stopped")


def demo(
    reduced: Annotated[
        bool, typer.Option("--reduced", help="Fewer prompts and amounts; any verdict will do.")
    ] = False,
    output: Annotated[Path, typer.Option(file_okay=False)] = Path("demo-output"),
) -> None:
    """Correct a small model's habit of repeating itself, from start to finish."""
    treat_termination_as_interrupt()
    data = os.environ.get("EXCISE_DATA")
    options = DemoOptions(
        home=find_home(), output=output, is_reduced=reduced, data=Path(data) if data else None
    )
    end_with(ExitCode(run_demo(options)))


def migrate() -> None:
    """Bring the database to the newest schema."""
    try:
        upgrade_to_head(find_database_url())
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise CommandError(f"The database cannot be migrated: {reason}.") from None
    print_line("the database is up to date")


def version() -> None:
    """Print the version."""
    try:
        print_line(f"excise {find_version('excise')}")
    except PackageNotFoundError:
        print_line("excise (not installed, run from a checkout)")


def find_program() -> str:
    """What to type for `excise` in another terminal."""
    beside = Path(sys.executable).with_name("excise")
    return "excise" if shutil.which("excise") or not beside.exists() else str(beside)


def print_line(text: str) -> None:
    """One message on standard output, at once."""
    print(text, file=sys.stdout, flush=True)


def treat_termination_as_interrupt() -> None:
    """Make SIGTERM and a closed terminal end the command the way Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)  # also where a shell started us with it ignored
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
