"""Stage 5: the files a job leaves: report in three forms, patch, manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from workers.correction.results import SearchOutcome
from workers.domain import Report
from workers.progress import Progress
from workers.pruning.patch import build_patch, serialise_patch
from workers.tasks.context import JobContext
from workers.tasks.loading import CorrectionInputs
from workers.validation.report import render_html, render_json, render_markdown

PATCH_NAME = "patch.safetensors"
MEDIA_TYPES = {
    "report.json": "application/json",
    "report.md": "text/markdown; charset=utf-8",
    "report.html": "text/html; charset=utf-8",
    PATCH_NAME: "application/octet-stream",
    "manifest.json": "application/json",
}


def run(
    context: JobContext,
    inputs: CorrectionInputs,
    report: Report,
    search: SearchOutcome | None,
) -> None:
    """Store the job's files and list them; the manifest is the stage's result."""
    trial = None if search is None else search.chosen_trial
    key = {
        "report": _hash(render_json(report.model_copy(update={"timings": {}}))),
        "selection": None if trial is None else trial.selection.model_dump(mode="json"),
    }
    context.run_stage(
        "package", key, lambda progress: _work(context, inputs, report, search, progress)
    )


def _work(
    context: JobContext,
    inputs: CorrectionInputs,
    report: Report,
    search: SearchOutcome | None,
    progress: Progress,
) -> bytes:
    files = {
        "report.json": render_json(report),
        "report.md": render_markdown(report).encode(),
        "report.html": render_html(report).encode(),
    }
    if search is not None and (selection := search.selection) is not None:
        files[PATCH_NAME] = serialise_patch(build_patch(inputs.checkpoint_path, selection))
    files["manifest.json"] = _build_manifest(inputs, report, files)
    for done, (name, data) in enumerate(files.items(), start=1):
        context.publish_file(name, data, MEDIA_TYPES[name])
        progress(done, len(files))
    return files["manifest.json"]


def _build_manifest(inputs: CorrectionInputs, report: Report, files: Mapping[str, bytes]) -> bytes:
    """Return what is needed to run the job again and to recognise its files.

    Nothing in it depends on when or where the job ran: the report is hashed without timings,
    prompt sets are named by their content.
    """
    spec = inputs.spec.model_dump(mode="json", exclude={"metadata"})
    spec["reference"] = _describe_set(inputs, inputs.spec.reference)
    for position, behaviour in enumerate(inputs.spec.behaviours):
        spec["behaviours"][position]["prompts"] = _describe_set(inputs, behaviour.prompts)
    if inputs.spec.perplexity is not None:
        spec["perplexity"]["prompts"] = _describe_set(inputs, inputs.spec.perplexity.prompts)
    hashes = {name: _hash(data) for name, data in files.items() if name != "report.json"}
    hashes["report.json without timings"] = _hash(
        render_json(report.model_copy(update={"timings": {}}))
    )
    manifest = {
        "format_version": 1,
        "verdict": report.verdict.value,
        "model": report.model.model_dump(),
        "spec": spec,
        "seed": report.seed,
        "versions": report.versions,
        "sha256": hashes,
    }
    return (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode()


def _describe_set(inputs: CorrectionInputs, prompt_set_id: str) -> dict[str, Any]:
    info = inputs.prompt_set(prompt_set_id)
    return {"name": info.name, "sha256": info.sha256}


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
