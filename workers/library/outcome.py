"""What a call returns: the report, the patch, and the changed model."""

from __future__ import annotations

import html
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Generic, TypeVar

from transformers import PreTrainedModel

from excise.names import JobFile, Verdict
from excise.reports.common import JobReport
from workers.library.checkpoint import OpenCheckpoint
from workers.library.context import Event
from workers.pruning.patch import Patch, apply_patch, parse_patch
from workers.stages.packaging import INDEX_NAME

ReportT = TypeVar("ReportT", bound=JobReport)

CHECKPOINT_FOLDER = "checkpoint"
"""Where `Outcome.save` puts the changed checkpoint."""

_WEIGHTS_SUFFIX = ".safetensors"
_FRAME_HEIGHT = 640


@dataclass(frozen=True, eq=False)
class Outcome(Generic[ReportT]):
    """How a correction, a circuit's discovery or a compression ended."""

    report: ReportT
    files: Mapping[str, bytes]
    """Everything a service's job would leave: report.json, report.md, report.html,
    manifest.json, and patch.safetensors where there is one."""
    events: tuple[Event, ...]
    """What the stages had to say, such as each trial of a search."""
    base: OpenCheckpoint

    @property
    def verdict(self) -> Verdict:
        """Whether every gate was met."""
        return self.report.verdict

    @cached_property
    def patch(self) -> Patch | None:
        """The patch, where there is one; `excise.apply` and `excise patch apply` take it."""
        data = self.files.get(JobFile.PATCH)
        return None if data is None else parse_patch(data)

    @cached_property
    def model(self) -> PreTrainedModel:
        """The changed model, another object than the base. Raises `ValueError` without a change.

        It is there whatever the verdict: see `report` before you use it.
        """
        with TemporaryDirectory(prefix="excise-changed-") as scratch:
            folder = Path(scratch) / CHECKPOINT_FOLDER
            self._write_checkpoint(folder)
            return self.base.load(folder).model

    def save(self, folder: str | Path) -> Path:
        """Write every file to `folder`, and the changed checkpoint, where there is one, below it.

        Returns the folder. Raises `FileExistsError` where it exists.
        """
        target = Path(folder)
        if target.exists():
            raise FileExistsError(f"{target} exists already; name another folder, or remove it")
        target.mkdir(parents=True)
        for name, data in self.files.items():
            if not _is_weights(name):
                (target / name).write_bytes(data)
        if self.is_changed:
            self._write_checkpoint(target / CHECKPOINT_FOLDER)
        return target

    @property
    def is_changed(self) -> bool:
        """Whether there is a changed model at all."""
        return JobFile.PATCH in self.files or any(map(_is_weights, self.files))

    def _write_checkpoint(self, target: Path) -> None:
        if self.patch is not None:
            apply_patch(self.patch, self.base.folder, target)
            return
        weights = {name: data for name, data in self.files.items() if _is_weights(name)}
        if not weights:
            raise ValueError(f"there is no changed model: {self.report.reason}")
        shutil.copytree(self.base.folder, target)
        for name, data in weights.items():
            (target / name).write_bytes(data)

    def __repr__(self) -> str:
        return f"<{self.verdict.value}: {self.report.reason}>"

    def _repr_html_(self) -> str:
        """The report, in a frame of its own so that its styles stay inside."""
        page = html.escape(self.files[JobFile.REPORT_HTML].decode(), quote=True)
        return (
            f'<iframe srcdoc="{page}" style="width: 100%; height: {_FRAME_HEIGHT}px; '
            'border: 1px solid #ccc; box-sizing: border-box; display: block"></iframe>'
        )


def _is_weights(name: str) -> bool:
    """Whether a file is part of a compressed checkpoint that is given whole."""
    return name != JobFile.PATCH and (name.endswith(_WEIGHTS_SUFFIX) or name == INDEX_NAME)
