"""What every kind of job produces: a list of its files, and a manifest that identifies them."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from excise.names import JobFile, JobStatus, Verdict
from excise.reports.common import JobReport
from workers.progress import Counter, Progress, count_alike
from workers.pruning.patch import PatchVerdict
from workers.reports.rendering import render_json
from workers.stages.context import StageContext
from workers.stages.inputs import Inputs

INDEX_NAME = "model.safetensors.index.json"
"""File that says which file of a sharded checkpoint holds which tensor."""
MEDIA_TYPES: Mapping[str, str] = {
    JobFile.REPORT: "application/json",
    JobFile.REPORT_MARKDOWN: "text/markdown; charset=utf-8",
    JobFile.REPORT_HTML: "text/html; charset=utf-8",
    JobFile.PATCH: "application/octet-stream",
    JobFile.MANIFEST: "application/json",
    INDEX_NAME: "application/json",
}

STATUSES = {
    Verdict.PASSED: JobStatus.SUCCEEDED,
    Verdict.REJECTED: JobStatus.REJECTED,
    Verdict.NO_EFFECT: JobStatus.REJECTED,
}
"""The status of a job that ends with this verdict."""


def publish_package(
    context: StageContext,
    report: JobReport,
    spec: Mapping[str, Any],
    files: Mapping[str, bytes],
    progress: Progress,
) -> bytes:
    """Store report.json, `files` and their manifest; list them, and return the manifest.

    `spec` is the job's spec, with prompt sets described by `describe_set`.
    """
    packed: dict[str, bytes] = {JobFile.REPORT: render_json(report), **files}
    manifest = _build_manifest(report, spec, packed)
    packed[JobFile.MANIFEST] = manifest
    advance = Counter(progress, [count_alike("files", len(packed))])
    for name, data in packed.items():
        context.publish_file(name, data, MEDIA_TYPES.get(name, "application/octet-stream"))
        advance(1)
    return manifest


def _build_manifest(
    report: JobReport, spec: Mapping[str, Any], files: Mapping[str, bytes]
) -> bytes:
    """Return what is needed to repeat the job and to identify its files.

    Nothing in it depends on when or where the job ran: the report is hashed without timings, and
    prompt sets are identified by content.
    """
    hashes = {name: hash_bytes(data) for name, data in files.items() if name != JobFile.REPORT}
    manifest = {
        "format_version": 2,
        "verdict": report.verdict.value,
        "model": report.model.model_dump(),
        "spec": spec,
        "seed": spec["seed"],
        "versions": report.versions,
        "sha256": hashes | {f"{JobFile.REPORT} without timings": hash_report(report)},
    }
    return (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode()


def find_patch_verdict(report: JobReport) -> PatchVerdict:
    """Return the verdict that the patch of this job carries."""
    return PatchVerdict(report.verdict, report.unmet_gates)


def hash_report(report: JobReport) -> str:
    """Return the SHA-256 of report.json without its timings."""
    return hash_bytes(render_json(report.model_copy(update={"timings": {}})))


def describe_set(inputs: Inputs, prompt_set_id: str) -> dict[str, Any]:
    """Return the manifest's description of a prompt set: it names the content, not the id."""
    info = inputs.prompt_set(prompt_set_id)
    return {"name": info.name, "sha256": info.sha256, "format": info.format}


def list_versions() -> dict[str, str]:
    """Return the versions on which a report's figures depend."""
    return {
        "excise": version("excise"),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def hash_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()
