"""Checkpoints named by a command or a call, found by the same rules as for jobs."""

from __future__ import annotations

import os
from pathlib import Path

from excise.intake.checkpoint_folder import list_own_roots
from excise.intake.model_sources import ModelSourceError, check_checkpoint_folder
from workers.fetching.checkpoints import find_checkpoint_folder

_STARTS_OF_PATHS = ("/", "./", "../", "~")


def find_checkpoint(model: str) -> Path:
    """Return the checked folder of a checkpoint given as a folder, a name or a pinned hub id.

    A name stands for a folder under EXCISE_MODEL_ROOTS or `$EXCISE_HOME/models`. A folder may lie
    anywhere, but its files must lie in it. Raises `ModelSourceError` and `CheckpointError`.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        resolved = folder.resolve()
        check_checkpoint_folder(resolved, list_own_roots(resolved))
        return resolved
    if model.startswith(_STARTS_OF_PATHS):
        raise ModelSourceError(f"there is no folder {model}. Check its spelling.")
    return find_checkpoint_folder(model, list_model_roots())


def list_model_roots() -> list[Path]:
    """Return the folders in which checkpoints are searched by name, from the environment."""
    configured = os.environ.get("EXCISE_MODEL_ROOTS", "").split(os.pathsep)
    home = Path(os.environ.get("EXCISE_HOME", ".excise"))
    return [*(Path(root).expanduser() for root in configured if root), home / "models"]
