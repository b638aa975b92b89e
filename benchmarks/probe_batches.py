"""How many tokens a batch of ability probes should have: CPU seconds a batch size, and its padding.

    python benchmarks/probe_batches.py --model FOLDER [--batches 256 1024 4096] [--repeats 2]

Measures the first probes of every slice, the sizes in turn. CPU time counts, so that other work on
the machine matters little.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from workers.abilities.catalogue import build_slices
from workers.abilities.source import Purpose
from workers.measuring import probes as measured
from workers.models.batches import build_batches
from workers.models.checkpoints import load_checkpoint

PROBES = 8
"""Number of probes of each slice; a whole measurement has 20 to 60."""


def main() -> None:
    """Print one row per batch size: padded tokens, and CPU seconds of each repeat."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a checkpoint")
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    loaded = load_checkpoint(arguments.model)
    slices = build_slices(loaded.tokenizer, Purpose.VERDICT, 0, longest=loaded.context_length)
    asked = {name: probes[:PROBES] for name, probes in slices.items()}
    samples = [probe.sample for probes in asked.values() for probe in probes]
    seconds: dict[int, list[str]] = {size: [] for size in arguments.batches}
    for _ in range(arguments.repeats):
        for size, own in seconds.items():
            measured.BATCH_TOKENS = size
            started = time.process_time()
            measured.measure_probes(loaded, asked)
            own.append(f"{time.process_time() - started:.1f}")
    print(f"{sum(len(sample.token_ids) for sample in samples)} tokens of {len(samples)} probes")
    print("| tokens a batch | padded tokens | CPU seconds |\n|---|---|---|")
    for size, own in seconds.items():
        batches = build_batches(samples, size, loaded.pad_id)
        padded = sum(batch.token_ids.numel() for batch in batches)
        print(f"| {size} | {padded} | {', '.join(own)} |")


if __name__ == "__main__":
    main()
