"""Exact global top-k over many float32 scores, compared with torch.topk and argsort: time, memory.

Every variant runs in its own process on the same scores, so that its peak memory above the scores
can be measured. All must choose the same components (topk only the same k-th score, because it
breaks ties differently).

    python benchmarks/selection.py [--size 100000000] [--share 0.01] [--threads 1]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import torch

from excise.names import Granularity, Scope
from workers.pruning.selection import count_share, select_components

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = ("excise", "topk", "argsort")
MODULE_SIZE = 1 << 22
"""Number of scores per module: a 2,048 × 2,048 projection."""


def draw_scores(size: int) -> torch.Tensor:
    """Return realistic scores: positive, over many orders of magnitude."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(size, generator=generator).exp_()


def select(variant: str, scores: torch.Tensor, share: float) -> torch.Tensor:
    """Return the indices of the largest scores, chosen by one variant."""
    count = count_share(len(scores), share)
    if variant == "topk":
        return torch.topk(scores, count).indices
    if variant == "argsort":
        return torch.argsort(scores, descending=True, stable=True)[:count]
    modules = {str(place): part for place, part in enumerate(scores.split(MODULE_SIZE))}
    found = select_components(modules, Granularity.WEIGHT, Scope.GLOBAL, share)
    return torch.cat([chosen + int(name) * MODULE_SIZE for name, chosen in found.indices.items()])


def read_memory(field: str) -> int:
    """Return a field of this process's status, in bytes."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{field}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def measure(variant: str, size: int, share: float, threads: int) -> dict[str, object]:
    """Return seconds, peak bytes above the scores, and values that identify the choice."""
    torch.set_num_threads(threads)
    scores = draw_scores(size)
    select(variant, scores[:1000], share)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before, started = read_memory("VmRSS"), time.perf_counter()
    chosen = select(variant, scores, share)
    seconds = time.perf_counter() - started
    peak = read_memory("VmHWM") - before
    ascending = chosen.sort().values
    return {
        "seconds": seconds,
        "peak_bytes": peak,
        "count": len(chosen),
        "last_score": float(scores[chosen].min()),
        "sha256": hashlib.sha256(ascending.numpy().tobytes()).hexdigest(),
    }


def main() -> None:
    """Measure every variant in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=100_000_000)
    parser.add_argument("--share", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--variant", choices=VARIANTS, help="measure one, print JSON")
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant, options.size, options.share, options.threads)))
        return
    results = {}
    for variant in VARIANTS:
        command = [sys.executable, __file__, *sys.argv[1:], "--variant", variant]
        environment = {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        results[variant] = json.loads(done.stdout)
    ours = results["excise"]
    assert ours["sha256"] == results["argsort"]["sha256"]
    assert (ours["count"], ours["last_score"]) == tuple(
        results["topk"][key] for key in ("count", "last_score")
    )
    print(f"{ours['count']} of {options.size} scores, {options.threads} thread(s)")
    print("| variant | seconds | peak MB above the scores | time ÷ excise | memory ÷ excise |")
    print("|:--|--:|--:|--:|--:|")
    for variant, found in results.items():
        print(
            f"| {variant} | {found['seconds']:.2f} | {found['peak_bytes'] / 1e6:.0f} "
            f"| {found['seconds'] / ours['seconds']:.1f} "
            f"| {found['peak_bytes'] / ours['peak_bytes']:.1f} |"
        )


if __name__ == "__main__":
    main()
