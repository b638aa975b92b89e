"""The patch of a job: only of the weights that it measured.

A folder can be overwritten by another training while a job runs. What is read from it at the end
is therefore compared with the hash that the job took at its start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch

from excise.reports.common import JobReport
from workers.domain import Selection
from workers.models.checkpoints import CheckpointError
from workers.pruning.patch import Patch, PatchError
from workers.pruning.patch_building import build_patch
from workers.pruning.safetensors_files import SafetensorsFormatError, compute_checkpoint_sha256
from workers.stages.inputs import Inputs
from workers.stages.packaging import find_patch_verdict


def build_own_patch(
    inputs: Inputs,
    report: JobReport,
    selection: Selection,
    replacement: Mapping[str, torch.Tensor] | None = None,
) -> Patch:
    """Return the patch of a job, with the verdict of its report; see `build_patch`.

    Raises `CheckpointError` if the folder no longer holds the weights that the job measured.
    """
    verdict = find_patch_verdict(report)
    with reading_measured(inputs, report):
        patch = build_patch(
            inputs.checkpoint_path, selection, replacement=replacement, verdict=verdict
        )
    if patch.base_sha256 != report.model.sha256:
        raise _changed(report, patch.base_sha256)
    return patch


@contextmanager
def reading_measured(inputs: Inputs, report: JobReport) -> Iterator[None]:
    """Return a context in which errors of a folder that changed become `CheckpointError`s."""
    try:
        yield
    except (PatchError, SafetensorsFormatError, OSError):
        require_measured(inputs, report)
        raise


def require_measured(inputs: Inputs, report: JobReport) -> None:
    """Raise `CheckpointError` unless the folder holds the weights that the job measured."""
    try:
        found = compute_checkpoint_sha256(inputs.checkpoint_path)
    except (SafetensorsFormatError, OSError) as error:
        raise _changed(report, None) from error
    if found != report.model.sha256:
        raise _changed(report, found)


def _changed(report: JobReport, found: str | None) -> CheckpointError:
    now = "can no longer be read" if found is None else f"now have {found}"
    return CheckpointError(
        f"the weights of {report.model.id} were changed while the job ran: they had sha256 "
        f"{report.model.sha256} and {now}. Nothing can be said of them, so there is no patch. Run "
        "it again on a folder that nobody writes to."
    )
