"""Stage 4 of a compression: the report in three forms, and a patch or the compressed checkpoint."""

from __future__ import annotations

import tempfile
from pathlib import Path

from excise.intake.checkpoint_folder import list_weight_files
from excise.names import JobFile
from excise.reports.compression import CompressionReport
from workers.kinds.compression.results import select_masked
from workers.progress import Progress
from workers.pruning.patch import Patch, apply_patch
from workers.pruning.patch_format import serialise_patch
from workers.reports.compression import render_compression_html, render_compression_markdown
from workers.stages.context import StageContext, StageOutput
from workers.stages.inputs import CompressionInputs
from workers.stages.own_patch import build_own_patch, reading_measured
from workers.stages.packaging import INDEX_NAME, describe_set, hash_report, publish_package

PATCH_NOTE = (
    "The patch holds every removed weight, so it turns the base checkpoint into the compressed one "
    "and back, bit for bit."
)
CHECKPOINT_NOTE = (
    "A patch would be larger than the model, so the compressed checkpoint's weights are given "
    "whole, with their index where they are sharded. Put them into a copy of the base folder in "
    "place of its own, and leave out a second set of weights (consolidated.safetensors, original/, "
    "pytorch_model.bin), which would be uncompressed and which some servers prefer."
)


def run(
    context: StageContext, inputs: CompressionInputs, report: CompressionReport, masks: StageOutput
) -> None:
    """Store the job's files and list them; the stage's result is their manifest.

    Raises `CheckpointError` if the checkpoint's weights changed while the job ran.
    """
    key = {
        "report": hash_report(report),
        "compress": masks.sha256,
    }
    context.run_stage(
        "package", key, lambda progress: _work(context, inputs, report, masks, progress)
    )


def _work(
    context: StageContext,
    inputs: CompressionInputs,
    report: CompressionReport,
    masks: StageOutput,
    progress: Progress,
) -> bytes:
    selection = select_masked(masks.data, inputs.base.find_linear_modules())
    patch = build_own_patch(inputs, report, selection)
    with reading_measured(inputs, report):
        weights = choose_files(inputs.checkpoint_path, patch)
    has_patch = JobFile.PATCH in weights
    note = PATCH_NOTE if has_patch else CHECKPOINT_NOTE
    described = {"files_note": note, "has_patch": has_patch}
    final = report.model_copy(update=described | {"corrected_sha256": patch.corrected_sha256})
    files = {
        JobFile.REPORT_MARKDOWN: render_compression_markdown(final).encode(),
        JobFile.REPORT_HTML: render_compression_html(final).encode(),
        **weights,
    }
    return publish_package(context, final, _describe_spec(inputs), files, progress)


def choose_files(base: Path, patch: Patch) -> dict[str, bytes]:
    """Return the patch, or the compressed checkpoint's weight files if they are smaller."""
    data = serialise_patch(patch)
    if len(data) <= sum(path.stat().st_size for path in list_weight_files(base)):
        return {JobFile.PATCH: data}
    with tempfile.TemporaryDirectory(prefix="excise-") as scratch:
        folder = Path(scratch) / "checkpoint"
        apply_patch(patch, base, folder)
        return read_weight_files(folder)


def read_weight_files(folder: Path) -> dict[str, bytes]:
    """Return name → bytes of a checkpoint's weight files and, if it has one, their index.

    Pruning moves no tensor between files, so the base's index is valid for the compressed files.
    """
    paths = [*list_weight_files(folder), folder / INDEX_NAME]
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def _describe_spec(inputs: CompressionInputs) -> dict[str, object]:
    spec = inputs.spec
    described = spec.model_dump(mode="json", exclude={"metadata"})
    described["calibration"]["prompts"] = describe_set(inputs, spec.calibration.prompts)
    described["perplexity"]["prompts"] = describe_set(inputs, spec.perplexity.prompts)
    for position, task in enumerate(spec.tasks):
        described["tasks"][position]["rows"] = inputs.hash_task_rows(task)
    return described
