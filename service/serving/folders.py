"""Folders of served files: each is named by the hash of its content and never changes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from excise.names import VersionKind
from service.artifacts import ArtifactStore
from service.errors import ArtifactCorruptError
from service.serving.publications import check_file_names

_HASH = re.compile(r"[0-9a-f]{64}")


def hash_content(files: Mapping[str, str]) -> str:
    """Return the name of the folder with these files: SHA-256 over their names and hashes."""
    listing = json.dumps(sorted(files.items()), separators=(",", ":"))
    return hashlib.sha256(listing.encode()).hexdigest()


def place_files(
    artifacts: ArtifactStore,
    kind: VersionKind,
    files: Mapping[str, str],
    root: Path,
) -> Path:
    """Return the folder under `root` with a version's files, complete and with the right hashes.

    It is filled under another name and then renamed, so it is never seen incomplete. Raises
    `ValueError` for names that a version may not have, `ArtifactNotFoundError`,
    `ArtifactCorruptError` and `OSError`.
    """
    check_file_names(kind, files)
    folder = root.expanduser().absolute() / hash_content(files)
    if folder.is_dir():
        _check_hashes(files, folder)
    else:
        _fill(artifacts, files, folder)
    return folder


def delete_unneeded(
    root: Path, find_needed: Callable[[], Iterable[Mapping[str, str]]]
) -> list[str]:
    """Delete every folder under `root` whose content is not needed; return their names.

    `find_needed` is called after listing the folders, so that a folder created meanwhile is kept.
    Folders whose names are not hashes do not belong to this module and are kept as well.
    """
    if not root.is_dir():
        return []
    names = sorted(path.name for path in root.iterdir() if _HASH.fullmatch(path.name))
    kept = {hash_content(files) for files in find_needed()}
    deleted = [name for name in names if name not in kept]
    for name in deleted:
        shutil.rmtree(root / name)
    return deleted


def _fill(artifacts: ArtifactStore, files: Mapping[str, str], folder: Path) -> None:
    """Fill the folder; the store checks every file's hash and copies only if necessary."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
    try:
        for name, sha256 in files.items():
            artifacts.share_file(sha256, partial / name).chmod(0o644)
        partial.chmod(0o755)
        _rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _rename(partial: Path, folder: Path) -> None:
    """Rename the filled folder, unless another process was faster; its content is the same."""
    try:
        partial.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
    descriptor = os.open(folder.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_hashes(files: Mapping[str, str], folder: Path) -> None:
    """Raise `ArtifactCorruptError` unless the folder holds exactly these files."""
    found = {}
    for path in folder.iterdir():
        with path.open("rb") as stream:
            found[path.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != dict(files):
        raise ArtifactCorruptError(
            f"{folder} does not match the hash in its name. Delete it; it will be created again."
        )
