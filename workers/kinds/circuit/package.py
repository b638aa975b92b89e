"""Stage 4 of a circuit job: the report in three forms, and a patch that keeps the circuit only."""

from __future__ import annotations

from excise.names import JobFile
from excise.reports.circuit import CircuitReport
from excise.specs.circuit import BUILT_IN_TASKS
from workers.domain import Selection
from workers.families import linear_weight
from workers.progress import Progress
from workers.pruning.patch_format import serialise_patch
from workers.reports.circuit import render_circuit_html, render_circuit_markdown
from workers.stages.context import StageContext
from workers.stages.inputs import CircuitInputs
from workers.stages.own_patch import build_own_patch, require_measured
from workers.stages.packaging import describe_set, hash_report, publish_package

MAX_PATCH_BYTES = 512 * 1024 * 1024
"""Size limit of the patch, which holds everything outside the circuit; larger ones are not built.
"""

_INDEX_BYTES = 4
_NOTE = (
    "The patch sets everything outside the circuit to zero and takes it back bit for bit. It shows "
    "what the circuit does alone; it is not a model to ship."
)
_OTHER_ABLATION_NOTE = (
    " This circuit was found with the {ablation} activation in place of everything outside it; "
    "with zero, as the patch has it, {kept:.0%} of the metric is kept. Set ablation to zero for a "
    "circuit that is found as the patch leaves it."
)


def run(
    context: StageContext, inputs: CircuitInputs, report: CircuitReport, outside: Selection | None
) -> None:
    """Store the job's files and list them; the stage's result is their manifest.

    Raises `CheckpointError` if the checkpoint's weights changed while the job ran.
    """
    has_patch = outside is not None and len(outside) > 0
    too_large = has_patch and estimate_patch_bytes(inputs, outside) > MAX_PATCH_BYTES
    note = describe_patch(report, has_patch, too_large)
    patched = outside if has_patch and not too_large else None
    final = report.model_copy(update={"patch_note": note, "has_patch": patched is not None})
    key = {"report": hash_report(final)}
    context.run_stage(
        "package", key, lambda progress: _work(context, inputs, final, patched, progress)
    )


def describe_patch(report: CircuitReport, has_patch: bool, too_large: bool) -> str:
    """Return what the report says about the patch."""
    if not has_patch:
        return "There is no patch: nothing lies outside a circuit."
    if too_large:
        limit = MAX_PATCH_BYTES // 1024**2
        return f"There is no patch: it would hold nearly the whole model, more than {limit} MiB."
    if report.circuit is None or report.ablation == "zero":
        return _NOTE
    kept = report.circuit.held_out.zero_retention
    return _NOTE + _OTHER_ABLATION_NOTE.format(ablation=report.ablation, kept=kept)


def estimate_patch_bytes(inputs: CircuitInputs, selection: Selection | None) -> int:
    """Return the approximate size of the patch that removes `selection`, in bytes."""
    if selection is None:
        return 0
    total = 0
    for name, module in inputs.base.find_components(selection.granularity).items():
        weight = linear_weight(module)
        of = inputs.component_counts(selection.granularity)[name]
        width = weight.numel() // of
        chosen = len(selection.indices.get(name, ()))
        total += chosen * (_INDEX_BYTES + width * weight.element_size())
    return total


def _work(
    context: StageContext,
    inputs: CircuitInputs,
    report: CircuitReport,
    outside: Selection | None,
    progress: Progress,
) -> bytes:
    files: dict[str, bytes] = {}
    if outside is not None:
        patch = build_own_patch(inputs, report, outside)
        files[JobFile.PATCH] = serialise_patch(patch)
        report = report.model_copy(update={"corrected_sha256": patch.corrected_sha256})
    else:
        require_measured(inputs, report)
    files[JobFile.REPORT_MARKDOWN] = render_circuit_markdown(report).encode()
    files[JobFile.REPORT_HTML] = render_circuit_html(report).encode()
    spec = inputs.spec.model_dump(mode="json", exclude={"metadata"})
    if inputs.spec.task not in BUILT_IN_TASKS:
        spec["task"] = describe_set(inputs, inputs.spec.task)
    return publish_package(context, report, spec, files, progress)
