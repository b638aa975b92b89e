"""The result of a call: the report, the patch and the changed model."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, TypeVar

from transformers import PreTrainedModel

from excise.intake.checkpoint_folder import read_checkpoint_folder
from excise.intake.local_files import require_new_folder
from excise.intake.new_folders import building_folder
from excise.names import JobFile, Verdict
from excise.reports.common import JobReport
from workers.library.checkpoint import OpenCheckpoint
from workers.library.context import Event
from workers.library.modes import plain_torch
from workers.pruning.patch import (
    Patch,
    PatchError,
    WrongCheckpointError,
    apply_patch,
    parse_patch,
)
from workers.pruning.safetensors_files import compute_checkpoint_sha256
from workers.stages.packaging import INDEX_NAME

ReportT = TypeVar("ReportT", bound=JobReport)

CHECKPOINT_FOLDER = "checkpoint"
"""Name of the subfolder to which `Outcome.save` writes the changed checkpoint."""

_WEIGHTS_SUFFIX = ".safetensors"
_FRAME_HEIGHT = 640


@dataclass(frozen=True, eq=False)
class Outcome(Generic[ReportT]):
    """The result of a correction, a circuit discovery or a compression."""

    report: ReportT
    files: Mapping[str, bytes]
    """The files that a service's job would produce: report.json, report.md, report.html,
    manifest.json, and patch.safetensors if there is a patch."""
    events: tuple[Event, ...]
    """Messages of the stages, for example one for each trial of a search."""
    base: OpenCheckpoint

    @property
    def verdict(self) -> Verdict:
        """The report's verdict: `passed` if every gate was met."""
        return self.report.verdict

    @cached_property
    def patch(self) -> Patch | None:
        """The patch, for `excise.apply` and `excise patch apply`; None if there is none."""
        data = self.files.get(JobFile.PATCH)
        return None if data is None else parse_patch(data)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The changed model, a different object from the base.

        It exists even if the verdict is not `passed`, so look at `report` before you use it. Raises
        `ValueError` if nothing was changed, and `WrongCheckpointError` if the base folder no longer
        holds the weights that were measured.
        """
        with plain_torch(), TemporaryDirectory(prefix="excise-changed-") as scratch:
            folder = Path(scratch) / CHECKPOINT_FOLDER
            self._write_checkpoint(folder)
            return self.base.load(folder).model

    def save(self, folder: str | Path) -> Path:
        """Write all files to the new `folder`, and the changed checkpoint, if any, below it.

        Files of the base that are not part of the model, such as a second set of weights, are left
        out. `folder` appears complete or not at all. Returns the folder. Raises `FileExistsError`
        if it exists, and `WrongCheckpointError` if the base folder no longer holds the weights that
        were measured.
        """
        target = Path(folder)
        require_new_folder(target)
        with building_folder(target) as result:
            result.mkdir()
            for name, data in self.files.items():
                if not _is_weights(name):
                    (result / name).write_bytes(data)
            if self.is_changed:
                self._write_checkpoint(result / CHECKPOINT_FOLDER)
        return target

    @property
    def is_changed(self) -> bool:
        """Whether there is a changed model."""
        return JobFile.PATCH in self.files or any(map(_is_weights, self.files))

    def _write_checkpoint(self, target: Path) -> None:
        if self.patch is not None:
            apply_patch(self.patch, self.base.folder, target)
            return
        weights = {name: data for name, data in self.files.items() if _is_weights(name)}
        if not weights:
            raise ValueError(f"there is no changed model: {self.report.reason}")
        found = compute_checkpoint_sha256(self.base.folder)
        if found != self.report.model.sha256:
            raise WrongCheckpointError(
                f"the weights in {self.base.folder} have sha256 {found}, those that were measured "
                f"had {self.report.model.sha256}; put the old ones back, or compress the new ones"
            )
        read_checkpoint_folder(self.base.folder).copy_others(target)
        for name, data in weights.items():
            (target / name).write_bytes(data)
        written = compute_checkpoint_sha256(target)
        if written != self.report.corrected_sha256:
            raise PatchError(
                f"the result has sha256 {written}, the report promised "
                f"{self.report.corrected_sha256}; compress again"
            )

    def __repr__(self) -> str:
        return f"<{self.verdict.value}: {self.report.reason}>"

    def _repr_html_(self) -> str:
        """Return the report as HTML in an iframe, so that its styles do not leak out."""
        page = html.escape(self.files[JobFile.REPORT_HTML].decode(), quote=True)
        return (
            f'<iframe srcdoc="{page}" style="width: 100%; height: {_FRAME_HEIGHT}px; '
            'border: 1px solid #ccc; box-sizing: border-box; display: block"></iframe>'
        )


def _is_weights(name: str) -> bool:
    """Return whether a file is part of a compressed checkpoint, which has no patch."""
    return name != JobFile.PATCH and (name.endswith(_WEIGHTS_SUFFIX) or name == INDEX_NAME)
