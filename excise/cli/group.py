"""The root of the command line: command groups from other packages, and exit codes."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from inspect import isfunction
from io import TextIOWrapper
from pathlib import Path
from traceback import walk_tb
from typing import Any, cast

import typer
from typer.core import TyperGroup

from excise.cli.output import (
    CommandError,
    ExitCode,
    discard_output,
    print_aside,
    print_error,
)
from excise.cli.termination import Terminated, ending_in_order
from excise.errors import UserError
from excise.logs import configure_console_logging

ENTRY_POINT_GROUP = "excise.commands"
EXTRAS = {"service": "embedded", "workers": "worker"}
"""Package of a command → the extra that installs what it needs."""
DEBUG_VARIABLE = "EXCISE_DEBUG"

_STANDARD_ERROR = 2
_NOT_WRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

# click's base error class, whether typer bundles click or depends on it.
_USAGE_ERROR = typer.BadParameter.__mro__[2]


class OrderlyGroup(TyperGroup):
    """Maps errors to exit codes, and ends in order if the process is told to end.

    Wrong arguments end with 1 instead of click's 2, because 1 means "anything else". No command
    ends with a traceback unless EXCISE_DEBUG is set.
    """

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and end the process with its exit code."""
        extra["windows_expand_args"] = windows_expand_args
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        with ending_in_order():
            code = self._run(args, prog_name, complete_var, extra)
        sys.exit(code)

    def _run(
        self,
        args: Sequence[str] | None,
        prog_name: str | None,
        complete_var: str | None,
        extra: dict[str, Any],
    ) -> int:
        """Run a command and return its exit code."""
        degrade_output()
        configure_console_logging()
        try:
            result = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except UserError as error:
            return _fail(error.message, error.param)
        except Terminated:
            print_aside("terminated")
            raise
        except (KeyboardInterrupt, typer.Abort):
            print_aside("interrupted")
            return int(ExitCode.INTERRUPTED)
        except BrokenPipeError:
            # The reader of our output has gone; prevent the interpreter's error about it at exit.
            discard_output(sys.stdout)
            discard_output(sys.stderr)
            return int(ExitCode.ERROR)
        except Exception as error:  # noqa: BLE001 - last resort: no traceback reaches a user
            return _fail_unexpectedly(error)
        return result if isinstance(result, int) else 0


class ExciseGroup(OrderlyGroup):
    """Loads other packages' commands on demand."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of our own commands, then those of other packages' groups."""
        own = super().list_commands(ctx)
        return [*own, *sorted(name for name in find_groups() if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the command with this name; another package's is loaded now."""
        command = super().get_command(ctx, cmd_name)
        if command is None and (entry_point := find_groups().get(cmd_name)) is not None:
            command = load_group(entry_point)
        return command


def degrade_output() -> None:
    """Print an escape for characters that a terminal cannot show, instead of failing.

    What is printed to an output that was closed before the start (`>&-`) goes nowhere.
    """
    _occupy_standard_descriptors()
    if sys.stdout is None:
        sys.stdout = _open_nowhere()
    if sys.stderr is None:
        sys.stderr = _open_nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _occupy_standard_descriptors() -> None:
    """Open the null device as each of the descriptors 0 to 2 that is closed.

    Otherwise the next file to be opened would get that number, and libraries would print into it.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        continue
    os.close(descriptor)


def _open_nowhere() -> TextIOWrapper:
    return Path(os.devnull).open("w", encoding="utf-8")  # stays open until the end


def find_groups() -> dict[str, EntryPoint]:
    """Return name → command or group of commands, for all that installed packages register."""
    return {found.name: found for found in entry_points(group=ENTRY_POINT_GROUP)}


def load_group(entry_point: EntryPoint) -> Any:
    """Return the entry point's command; if it cannot be imported, one that says what is missing.

    An entry point names a function or a Typer app; an app with a single command and no callback
    becomes that command.
    """
    try:
        offered = entry_point.load()
    except ImportError as error:
        return _build_hint(entry_point, error)
    if isfunction(offered):
        function, offered = offered, typer.Typer(add_completion=False)
        offered.command(entry_point.name)(function)
    if not isinstance(offered, typer.Typer):
        return offered
    command = typer.main.get_command(offered)
    command.name = entry_point.name  # a group that was not added to another has none
    return command


def describe_missing(error: ImportError, package: str) -> str:
    """Return what is not installed, and how to install what the command's `package` needs."""
    missing = f"{error.name!r} is not installed" if error.name else str(error)
    return (
        f"This command needs more than Excise's client: {missing}. "
        f"Run: pip install 'excise[{EXTRAS.get(package, package)}]'"
    )


def _build_hint(entry_point: EntryPoint, error: ImportError) -> Any:
    """Return a command in place of one that cannot be imported, which says what is missing."""
    message = describe_missing(error, entry_point.module.partition(".")[0])
    stand_in = typer.Typer(add_completion=False)

    @stand_in.command(
        entry_point.name,
        help="(not available: needs more packages)",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )
    def explain() -> None:
        raise CommandError(message)

    return typer.main.get_command(stand_in)


def _fail(message: str, param: str | None = None) -> int:
    print_error(message, param)
    return int(ExitCode.ERROR)


def _fail_unexpectedly(error: Exception) -> int:
    """Report an unexpected error: wrong arguments as such, anything else in one line."""
    if isinstance(error, _USAGE_ERROR):
        usage = cast(Any, error)
        if type(error).__name__ == "NoArgsIsHelpError":
            print_aside(usage.format_message(), keep_lines=True)
            return int(ExitCode.ERROR)
        hint = f" Try: {usage.ctx.command_path} --help" if getattr(usage, "ctx", None) else ""
        return _fail(f"{usage.format_message()}{hint}")
    if isinstance(error, OSError) and error.errno in _NOT_WRITTEN:
        discard_output(sys.stdout)  # what its buffer holds would fail again at the end
        place = "the output" if error.filename is None else error.filename
        return _fail(f"{place} could not be written whole: {error.strerror}.")
    if isinstance(error, ModuleNotFoundError):
        return _fail(describe_missing(error, _find_package(error)))
    if os.environ.get(DEBUG_VARIABLE):
        print_aside(traceback.format_exc(), keep_lines=True)
    first_line = (str(error).strip() or "no message").splitlines()[0]
    return _fail(f"{type(error).__name__}: {first_line} ({DEBUG_VARIABLE}=1 shows more)")


def _find_package(error: BaseException) -> str:
    """Return the first package in the traceback whose dependencies are one of our extras."""
    frames = (frame.f_globals.get("__name__", "") for frame, _line in walk_tb(error.__traceback__))
    packages = (name.partition(".")[0] for name in frames)
    return next((package for package in packages if package in EXTRAS), "workers")
