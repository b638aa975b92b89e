"""Stage 5: the files of the job: the report in three forms, the patch and the manifest."""

from __future__ import annotations

from typing import Any

from excise.names import JobFile
from excise.reports.correction import CorrectionReport
from workers.correction.ablation import compute_replacement
from workers.correction.results import PreparedCorrection, SearchOutcome
from workers.domain import TokenSequence
from workers.progress import Progress
from workers.pruning.patch_format import serialise_patch
from workers.reports.correction import render_html, render_markdown
from workers.stages.context import StageContext
from workers.stages.inputs import CorrectionInputs
from workers.stages.own_patch import build_own_patch, require_measured
from workers.stages.packaging import describe_set, hash_report, publish_package


def run(
    context: StageContext,
    inputs: CorrectionInputs,
    prepared: PreparedCorrection,
    report: CorrectionReport,
    search: SearchOutcome | None,
) -> None:
    """Store the job's files and list them; the stage's result is their manifest.

    Raises `CheckpointError` if the checkpoint's weights changed while the job ran.
    """
    trial = None if search is None else search.chosen_trial
    key = {
        "report": hash_report(report),
        "selection": None if trial is None else trial.selection.model_dump(mode="json"),
        "ablation": None if trial is None else trial.settings.ablation,
    }
    context.run_stage(
        "package",
        key,
        lambda progress: _work(context, inputs, prepared, report, search, progress),
    )


def _work(
    context: StageContext,
    inputs: CorrectionInputs,
    prepared: PreparedCorrection,
    report: CorrectionReport,
    search: SearchOutcome | None,
    progress: Progress,
) -> bytes:
    files: dict[str, bytes] = {}
    if search is not None and (trial := search.chosen_trial) is not None:
        text = [TokenSequence(ids) for ids in prepared.reference.tune]
        patch = build_own_patch(
            inputs,
            report,
            trial.selection.to_selection(),
            compute_replacement(inputs.base, trial.settings, text),
        )
        files[JobFile.PATCH] = serialise_patch(patch)
        report = report.model_copy(update={"corrected_sha256": patch.corrected_sha256})
    else:
        require_measured(inputs, report)
    files[JobFile.REPORT_MARKDOWN] = render_markdown(report).encode()
    files[JobFile.REPORT_HTML] = render_html(report).encode()
    return publish_package(context, report, _describe_spec(inputs), files, progress)


def _describe_spec(inputs: CorrectionInputs) -> dict[str, Any]:
    spec = inputs.spec.model_dump(mode="json", exclude={"metadata"})
    spec["reference"] = describe_set(inputs, inputs.spec.reference)
    for position, behaviour in enumerate(inputs.spec.behaviours):
        spec["behaviours"][position]["prompts"] = describe_set(inputs, behaviour.prompts)
    if inputs.spec.perplexity is not None:
        spec["perplexity"]["prompts"] = describe_set(inputs, inputs.spec.perplexity.prompts)
    return spec
