"""What a checkpoint's folder holds: one that is replaced while it is measured is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from excise.intake.checkpoint_folder import read_checkpoint_folder
from workers.commands.gate.errors import CheckpointChangedError
from workers.pruning.safetensors_files import compute_checkpoint_sha256


@dataclass(frozen=True)
class FolderContents:
    """The hashes of a checkpoint's files at one moment."""

    weights_sha256: str
    """Over all tensors."""
    files: Mapping[str, str]
    """Name → hash of what stands beside the weights: configuration, tokenizer, chat template."""


def read_contents(folder: Path) -> FolderContents:
    """Return what the folder holds now.

    Raises `CheckpointFolderError`, `SafetensorsFormatError` and `OSError`.
    """
    others = read_checkpoint_folder(folder).others
    return FolderContents(
        compute_checkpoint_sha256(folder),
        {path.relative_to(folder).as_posix(): hash_file(path) for path in others},
    )


def require_unchanged(name: str, folder: Path, before: FolderContents) -> None:
    """Raise `CheckpointChangedError`, calling the checkpoint `name`, if it is not as `before`."""
    try:
        now = read_contents(folder)
    except (OSError, ValueError) as error:
        raise CheckpointChangedError(name, f"it can no longer be read: {error}") from error
    if now.weights_sha256 != before.weights_sha256:
        raise CheckpointChangedError(
            name,
            f"its weights had the SHA-256 {before.weights_sha256[:12]} and now have "
            f"{now.weights_sha256[:12]}",
        )
    if moved := sorted(dict(before.files.items() ^ now.files.items())):
        raise CheckpointChangedError(name, f"other than before: {', '.join(moved)}")


def hash_file(path: Path) -> str:
    """Return the hex SHA-256 of a file. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
