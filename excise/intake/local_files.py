"""Files that a user names: read within a limit, and never where reading would not end."""

from __future__ import annotations

import errno
import io
import os
import select
import stat
import time
from collections.abc import Callable
from pathlib import Path

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
"""Specs, reports, manifests and machines; a report has seldom more than one. Chosen by hand."""
MAX_TEXT_BYTES = 256 * 1024 * 1024
"""Prompts, texts and rows; a service takes 8 MiB unless it is told otherwise. Chosen by hand."""
MAX_PATCH_BYTES = 4 * 1024**3
"""Patches, which hold the original values of what they remove. Chosen by hand."""
PIPE_SECONDS = 60.0
"""Time for all that a pipe gives, such as a shell's `<(command)`. Chosen by hand."""

_PIECE_BYTES = 1024 * 1024


class FileRefusedError(OSError):
    """The file is not read: it is neither regular nor a pipe, too large, or a pipe too slow."""

    def __init__(self, path: Path, why: str) -> None:
        """`why` is said of the file, such as `it is a device`."""
        super().__init__(errno.EINVAL, why, str(path))

    def __str__(self) -> str:
        """Return what is wrong with which file."""
        return f"{self.filename} cannot be read: {self.strerror}"


def read_file(path: Path, most_bytes: int = MAX_DOCUMENT_BYTES) -> bytes:
    """Return the content of a regular file, or of a pipe until its writers have closed it.

    Raises `FileRefusedError` for anything else, for more than `most_bytes`, and for a pipe that has
    not ended after `PIPE_SECONDS`; and any other `OSError`.
    """
    # A pipe without a writer would otherwise keep even the opening waiting.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
            raise FileRefusedError(path, "it is not a regular file")
        wait = _wait_for_pipe(path, descriptor) if stat.S_ISFIFO(mode) else _wait_for_nothing
        return _read(path, descriptor, most_bytes, wait)
    finally:
        os.close(descriptor)


def _read(path: Path, descriptor: int, most_bytes: int, wait: Callable[[], None]) -> bytes:
    content = io.BytesIO()
    while True:
        wait()
        if not (piece := os.read(descriptor, _PIECE_BYTES)):
            return content.getvalue()
        if content.tell() + len(piece) > most_bytes:
            raise FileRefusedError(path, f"it has more than {most_bytes / 2**20:g} MiB")
        content.write(piece)


def _wait_for_pipe(path: Path, descriptor: int) -> Callable[[], None]:
    """Return what waits until the pipe has something to read, or has ended."""
    deadline = time.monotonic() + PIPE_SECONDS
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)

    def wait() -> None:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(1000 * left):
            raise FileRefusedError(
                path, f"it is a pipe that has not ended after {PIPE_SECONDS:g} s"
            )

    return wait


def _wait_for_nothing() -> None:
    """A regular file keeps nobody waiting."""


def require_new_folder(folder: Path) -> None:
    """Raise `FileExistsError` if there is anything at `folder`, be it a link that leads nowhere."""
    if folder.exists() or folder.is_symlink():
        raise FileExistsError(f"{folder} exists; name a folder that does not")
