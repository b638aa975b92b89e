"""Looking through the model roots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from service.checkpoints.schemas import CheckpointView
from service.errors import ModelSourceError
from service.model_sources import check_checkpoint_folder, list_checkpoints, resolve_model_source


def inspect_checkpoints(roots: Sequence[Path]) -> list[CheckpointView]:
    """Every checkpoint folder under the roots, checked as a job's `model` would be."""
    return [_inspect(name, roots) for name in sorted(list_checkpoints(roots))]


def _inspect(name: str, roots: Sequence[Path]) -> CheckpointView:
    try:
        source = resolve_model_source(name, roots)
        assert source.path is not None
        architecture = check_checkpoint_folder(source.path, roots)
    except ModelSourceError as error:
        return CheckpointView(id=name, architecture=None, usable=False, problem=error.message)
    return CheckpointView(id=name, architecture=architecture, usable=True, problem=None)
