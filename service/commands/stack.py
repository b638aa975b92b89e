"""`excise up`, `demo`, `serve`, `migrate`: run Excise itself."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from sqlalchemy.exc import SQLAlchemyError

from excise.cli.output import CommandError, ExitCode, end_with, print_line
from service.commands.connection import find_database_url, find_home
from service.commands.demo import MODEL, DemoOptions, run_demo
from service.commands.serve import ServeOptions, run_serve
from service.database import upgrade_to_head
from service.embedded import EmbeddedStack, ServingOptions
from service.embedded.stack import DEFAULT_PORT


def up(
    host: Annotated[str, typer.Option(help="Address the API listens on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Port the API listens on.")
    ] = DEFAULT_PORT,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Worker processes.")] = 1,
    serve: Annotated[
        bool, typer.Option("--serve", help="Also run vLLM, for corrections to be published to.")
    ] = False,
    serve_model: Annotated[
        str, typer.Option(help="The base it serves: a folder under the model roots.")
    ] = MODEL,
    serve_checkpoints: Annotated[
        int,
        typer.Option(
            min=0, max=8, help="Whole checkpoints served at once, each by a process of its own."
        ),
    ] = ServingOptions.checkpoints,
) -> None:
    """Run the whole service here, in the foreground, until Ctrl-C.

    Data and logs are kept in EXCISE_HOME (.excise by default). If EXCISE_DATABASE_URL and
    EXCISE_BROKER_URL are set, they name servers to use instead of the embedded ones.
    """
    treat_termination_as_interrupt()
    stack = EmbeddedStack(
        find_home(),
        host=host,
        port=port,
        workers=workers,
        serving=ServingOptions(serve_model, checkpoints=serve_checkpoints) if serve else None,
        report=print_line,
    )
    try:
        with stack:
            print_line(
                f"\nExcise answers at {stack.url} (API page: {stack.url}/docs)\n"
                "In another terminal, create a key and configure the client:\n"
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
    output: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for report, patch and manifest.")
    ] = Path("demo-output"),
) -> None:
    """Correct a small model's habit of repeating itself, from start to finish."""
    treat_termination_as_interrupt()
    data = os.environ.get("EXCISE_DATA")
    options = DemoOptions(
        home=find_home(), output=output, is_reduced=reduced, data=Path(data) if data else None
    )
    end_with(ExitCode(run_demo(options)))


def serve(
    output: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for report, patch and manifest.")
    ] = Path("demo-output"),
    exit_after_snippet: Annotated[
        bool, typer.Option(help="Stop once base and correction have answered.")
    ] = False,
) -> None:
    """Publish the demo's correction to vLLM, and ask it and its base the same, side by side."""
    treat_termination_as_interrupt()
    data = os.environ.get("EXCISE_DATA")
    demo_options = DemoOptions(home=find_home(), output=output, data=Path(data) if data else None)
    try:
        end_with(run_serve(ServeOptions(demo_options, exit_after_snippet)))
    except KeyboardInterrupt:
        print_line("stopped")


def migrate() -> None:
    """Migrate the database to the newest schema."""
    try:
        upgrade_to_head(find_database_url())
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise CommandError(f"The database cannot be migrated: {reason}.") from None
    print_line("the database is up to date")


def find_program() -> str:
    """Return what to type for `excise` in another terminal."""
    beside = Path(sys.executable).with_name("excise")
    return "excise" if shutil.which("excise") or not beside.exists() else str(beside)


def treat_termination_as_interrupt() -> None:
    """Make SIGTERM and a closed terminal end the command as Ctrl-C does."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)  # even if the shell started us with it ignored
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
