"""Saving a job's files to disk: complete and with the listed hash, or not at all."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from excise.client.errors import DownloadError
from excise.resources.jobs import ArtifactView


@contextmanager
def placing(artifact: ArtifactView, folder: Path) -> Iterator[tuple[Path, Path]]:
    """Yield a temporary path to write to, and the final path it is moved to if no error occurs.

    Raises `DownloadError` for a name that is a path and for a file that cannot be written.
    """
    name = artifact.name
    if name in {"", ".", ".."} or "/" in name or "\\" in name or "\0" in name:
        raise DownloadError(f"The job lists {name!r}, which is not a file name.")
    path = folder / name
    partial = folder / f".{name}.{secrets.token_hex(4)}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield partial, path
        partial.replace(path)
    except OSError as error:
        raise DownloadError(f"{path} cannot be written: {error.strerror}.") from None
    finally:
        partial.unlink(missing_ok=True)


def settle(file: BinaryIO) -> None:
    """Flush a file's content to the disk."""
    file.flush()
    os.fsync(file.fileno())


def check_hash(path: Path, artifact: ArtifactView) -> None:
    """Raise `DownloadError` unless the file has the hash that the job lists."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != artifact.sha256:
        raise DownloadError(
            f"{artifact.name} has the SHA-256 {found}, but the job lists {artifact.sha256}. "
            "It was not kept. Try again."
        )
