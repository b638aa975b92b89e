"""Files of results: whether they could be written, each only whole, and none of an earlier run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

_PROBE_BYTES = 1024 * 1024
"""What must fit into a folder for results; most are smaller. Chosen by hand."""


def require_writable(folder: Path) -> None:
    """Raise `OSError` where files of results could not be written to `folder`, now or once made.

    What this writes has no name, so that nothing stays behind, even of a process that is killed.
    """
    nearest = folder.absolute()
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    with tempfile.TemporaryFile(dir=nearest) as file:
        file.write(bytes(_PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())


def remove_earlier(folder: Path, names: Iterable[str]) -> None:
    """Remove the files of an earlier run, so that none can be taken for this run's.

    Raises `OSError`, whose `filename` remains there, once all that can be removed are.
    """
    failure = None
    for name in names:
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError as error:
            failure = error
    if failure is not None:
        raise failure


def write_whole(path: Path, data: bytes) -> None:
    """Write the file beside `path`, and move it there once it is on the disk. Raises `OSError`."""
    descriptor, name = tempfile.mkstemp(prefix=".excise-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
