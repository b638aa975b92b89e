"""What every kind of job leaves behind: its files listed, and a manifest that recognises them."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from workers.domain import ModelIdentity, Verdict
from workers.progress import Progress
from workers.tasks.context import JobContext
from workers.tasks.loading import JobInputs

PATCH_NAME = "patch.safetensors"
MANIFEST_NAME = "manifest.json"
INDEX_NAME = "model.safetensors.index.json"
"""Says which of a sharded checkpoint's files holds which tensor."""
TIMED_REPORT = "report.json"
MEDIA_TYPES = {
    TIMED_REPORT: "application/json",
    "report.md": "text/markdown; charset=utf-8",
    "report.html": "text/html; charset=utf-8",
    PATCH_NAME: "application/octet-stream",
    MANIFEST_NAME: "application/json",
    INDEX_NAME: "application/json",
}

STATUSES = {
    Verdict.PASSED: "succeeded",
    Verdict.REJECTED: "rejected",
    Verdict.NO_EFFECT: "rejected",
}
"""How a job with this verdict ends."""


def publish_files(context: JobContext, files: Mapping[str, bytes], progress: Progress) -> None:
    """Store the files and list them among the job's artifacts."""
    for done, (name, data) in enumerate(files.items(), start=1):
        context.publish_file(name, data, MEDIA_TYPES.get(name, "application/octet-stream"))
        progress(done, len(files))


def build_manifest(
    verdict: Verdict,
    model: ModelIdentity,
    spec: Mapping[str, Any],
    versions: Mapping[str, str],
    hashes: Mapping[str, str],
) -> bytes:
    """Return what is needed to run the job again and to recognise its files.

    Nothing in it depends on when or where the job ran: the report is hashed without timings,
    prompt sets are named by their content.
    """
    manifest = {
        "format_version": 2,
        "verdict": verdict.value,
        "model": model.model_dump(),
        "spec": spec,
        "seed": spec["seed"],
        "versions": versions,
        "sha256": hashes,
    }
    return (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode()


def hash_files(files: Mapping[str, bytes], untimed_report: bytes) -> dict[str, str]:
    """Return name → SHA-256 of every file, the report as it would be without timings."""
    hashes = {name: hash_bytes(data) for name, data in files.items() if name != TIMED_REPORT}
    return hashes | {f"{TIMED_REPORT} without timings": hash_bytes(untimed_report)}


def describe_set(inputs: JobInputs, prompt_set_id: str) -> dict[str, Any]:
    """Return a prompt set as the manifest names it: by content, not by id."""
    info = inputs.prompt_set(prompt_set_id)
    return {"name": info.name, "sha256": info.sha256, "format": info.format}


def list_versions() -> dict[str, str]:
    """Return the versions a report's figures depend on."""
    return {
        "excise": version("excise"),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def hash_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()
