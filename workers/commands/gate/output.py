"""The files `excise gate` leaves: all three of one run, or none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from excise.whole_files import remove_earlier, require_writable, write_whole
from workers.commands.gate.errors import OutputNotClearedError, OutputNotWritableError

JSON_NAME, MARKDOWN_NAME, JUNIT_NAME = "gate.json", "gate.md", "gate.xml"
NAMES = (JSON_NAME, MARKDOWN_NAME, JUNIT_NAME)


def clear_output(folder: Path) -> None:
    """Remove an earlier run's files, so that none can be taken for this run's.

    Raises `OutputNotClearedError` if one cannot be removed, after the others.
    """
    try:
        remove_earlier(folder, NAMES)
    except OSError as error:
        raise OutputNotClearedError(folder, error.strerror or str(error)) from error


def check_output(folder: Path) -> None:
    """Raise `OutputNotWritableError` where the files could not be written; leave nothing there."""
    try:
        require_writable(folder)
    except OSError as error:
        raise OutputNotWritableError(folder, error.strerror or str(error)) from error


def write_output(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write every file of `NAMES`, gate.json last: where it is, the others are complete.

    Each appears under its name only when it is whole. Nothing is left when one cannot be written.
    Raises `OSError`, among them `OutputNotClearedError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name in reversed(NAMES):
            write_whole(folder / name, files[name])
    except BaseException:
        clear_output(folder)
        raise
