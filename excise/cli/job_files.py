"""A folder for a job's files, in which none of an earlier job can be taken for this one's."""

from __future__ import annotations

from pathlib import Path

from excise.cli.output import CommandError
from excise.client import Client
from excise.names import JobFile
from excise.resources.jobs import JobView
from excise.whole_files import remove_earlier, require_writable


def require_room(folder: Path | None) -> None:
    """Raise `CommandError` where a job's files could not be saved: better before it has run."""
    if folder is None:
        return
    try:
        require_writable(folder)
    except OSError as error:
        raise CommandError(
            f"Nothing can be written to {folder}: {error.strerror}. Free some space there, or give "
            "another --output."
        ) from None


def clear_job_files(folder: Path, *more: str) -> None:
    """Remove the files of an earlier job, and those named `more`. Raises `CommandError`."""
    try:
        remove_earlier(folder, (*JobFile, *more))
    except OSError as error:
        raise CommandError(
            f"{error.filename} cannot be removed ({error.strerror}): files of an earlier job may "
            "remain there. Give another --output."
        ) from None


def fetch_job_files(client: Client, job: JobView, folder: Path) -> list[Path]:
    """Save the job's files in `folder`, which then holds those of no other; return their paths.

    Raises `CommandError`, and what `download_artifacts` does.
    """
    clear_job_files(folder)
    return client.download_artifacts(job, folder)
