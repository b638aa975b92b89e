"""Hashes of what jobs of every kind produce: two commits that compute the same print the same.

    python -m tests.acceptance.fingerprint [--real] [--only NAME …]

Runs tiny models, built from seeds, through the whole stack: corrections of neurons, of weights, of
heads and of two behaviours, a circuit, a compression, and an adapter. With --real it also runs the
reduced demo and a job for toxicity and repetition on SmolLM2 (about a quarter of an hour). Reports
are hashed without timings and versions; run it in two checkouts and compare with `diff`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.acceptance.harness import MODEL, NEW_TOKENS, Harness, build_prompts, running_stack
from tests.acceptance.test_kinds import build_rows
from tests.faulty import LOOP, build_faulty_model
from workers.pruning.patch import parse_patch
from workers.publishing.adapters import build_adapter

TOXIC_PROMPTS = 120


def fingerprint(folder: Path) -> dict[str, str]:
    """Return the hashes of a job's patch and of the figures in its report."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    for name in ("timings", "versions"):
        report.pop(name)
    found = {"report": hashlib.sha256(json.dumps(report, sort_keys=True).encode()).hexdigest()}
    if (patch := folder / "patch.safetensors").exists():
        found["patch"] = hashlib.sha256(patch.read_bytes()).hexdigest()
    return {"verdict": report["verdict"], **found}


def run_job(stack: Harness, spec: dict[str, Any], folder: Path) -> Path:
    """Return the folder with the files of the finished job."""
    job = stack.wait(stack.client.create_job(spec).id)
    stack.download(job, folder)
    return folder


def list_specs(stack: Harness) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a small job of every kind, with its name."""
    yield "neurons", stack.build_spec()
    for granularity in ("weight", "head"):
        name = f"faulty-{granularity}"
        build_faulty_model(stack.stack.home / "models" / name, granularity)
        yield (
            granularity,
            stack.build_spec(
                model=name,
                attribution={"granularity": granularity},
                search={"rounds": 3},
                responses={"max_uniqueness_fall": None, "max_diversity_fall": None},
            ),
        )
    spec = stack.build_spec()
    phrase = stack.client.upload_prompts(build_prompts(40, 6, 5, f" w{LOOP}"), "phrase").id
    spec["behaviours"].append(
        {
            "name": "phrase",
            "kind": "phrase",
            "prompts": phrase,
            "phrases": [f"w{LOOP} w{LOOP}"],
            "decoding": {"max_new_tokens": NEW_TOKENS},
        }
    )
    yield "two behaviours", spec
    rows = stack.client.upload_prompts(
        build_rows(), "rows", content_type="application/jsonl", is_rows=True
    ).id
    yield (
        "circuit",
        {
            "kind": "circuit",
            "model": MODEL,
            "task": rows,
            "attributors": ["attnlrp", "wanda", "random"],
            "shares": [0.001, 0.01, 0.1, 0.5],
            "threshold": 0.8,
            "rows": 24,
        },
    )
    text = stack.client.upload_prompts(build_prompts(60, 40, 3), "text").id
    yield (
        "compression",
        {
            "kind": "compression",
            "model": MODEL,
            "method": "attnlrp",
            "calibration": {"prompts": text, "samples": 8, "tokens": 32},
            "perplexity": {"prompts": text, "context": 32, "sequences": 8},
            "budget": {"perplexity_increase": 1e6},
        },
    )


def fingerprint_tiny(scratch: Path, only: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the fingerprint of each small job, and of the adapter made from the first."""
    with running_stack() as stack:
        for name, spec in list_specs(stack):
            if not only or name in only:
                yield name, fingerprint(run_job(stack, spec, scratch / name))
        if only:
            return
        patch = parse_patch((scratch / "neurons" / "patch.safetensors").read_bytes())
        base = stack.stack.home / "models" / MODEL
        adapter = build_adapter(patch, base, max_rank=16, base_model=MODEL)
        yield "adapter", {"hash": hashlib.sha256(repr(adapter).encode()).hexdigest()}


def fingerprint_real(scratch: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the fingerprints of the reduced demo, and of a job for toxicity and repetition."""
    root = Path(__file__).resolve().parents[2]
    excise = Path(sys.executable).with_name("excise")
    demo = scratch / "demo"
    subprocess.run([excise, "demo", "--reduced", "--output", demo], cwd=root, check=False)
    yield "reduced demo", fingerprint(demo)
    both = scratch / "both"
    options = ("--prompts", str(TOXIC_PROMPTS), "--rounds", "2", "--reference-tokens", "2048")
    subprocess.run(
        [
            *(sys.executable, "benchmarks/correction.py", "toxicity", "repetition"),
            *(*options, "--samples", "2", "--sequences", "4", "--output", str(both)),
        ],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        check=True,
    )
    yield "toxicity and repetition", fingerprint(both)


def main() -> None:
    """Print one line per job."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--real", action="store_true", help="also on SmolLM2")
    parser.add_argument("--only", nargs="+", default=[], help="small jobs of these names alone")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, found in fingerprint_tiny(Path(folder), arguments.only):
            print(name, json.dumps(found, sort_keys=True), flush=True)
        if arguments.real:
            for name, found in fingerprint_real(Path(folder)):
                print(name, json.dumps(found, sort_keys=True), flush=True)


if __name__ == "__main__":
    main()
