"""What bfloat16 gains where relevance is computed.

    python benchmarks/low_precision.py --model FOLDER [--rounds 3] [--threads N]

Attribution of neurons and of single weights (AttnLRP), and rows of protected texts, in float32 and
in bfloat16. Both take turns; of each the fastest round counts. CPU time counts, so that other work
on the machine matters less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from excise.names import Attributor, Granularity
from workers.abilities.catalogue import build_slices
from workers.abilities.source import Purpose
from workers.attribution.attribution import Attribution
from workers.attribution.attributors import compute_relevance
from workers.attribution.fisher import compute_margin_rows
from workers.attribution.targets import Target
from workers.domain import Selection, TokenSequence
from workers.models.checkpoints import load_checkpoint
from workers.models.loaded import LoadedModel

PLACES = 486
"""Single weights per matrix, as many as the demo's candidates have on average."""

Work = Callable[[LoadedModel], object]


def draw_places(loaded: LoadedModel) -> Selection:
    """Return weights of every matrix, drawn at random."""
    generator = torch.Generator().manual_seed(0)
    counts = loaded.count_components(Granularity.WEIGHT)
    return Selection(
        Granularity.WEIGHT,
        {
            name: torch.randint(count, (PLACES,), generator=generator).unique()
            for name, count in counts.items()
        },
    )


def list_work(loaded: LoadedModel) -> dict[str, Work]:
    """Return what is measured: one protected text of each slice, three ways."""
    slices = build_slices(loaded.tokenizer, Purpose.PROTECTION, 0, longest=loaded.context_length)
    samples: list[TokenSequence] = [probes[0].sample for probes in slices.values()]
    places = draw_places(loaded)

    def attribute(granularity: Granularity, own: LoadedModel) -> object:
        asked = Attribution(Attributor.ATTNLRP, granularity, Target.TOP_LOGIT)
        return compute_relevance(own, asked, samples)

    return {
        "neurons": partial(attribute, Granularity.NEURON),
        "single weights": partial(attribute, Granularity.WEIGHT),
        "rows of protected texts": lambda own: compute_margin_rows(own, places, samples),
    }


def main() -> None:
    """Print one row per kind of work: CPU seconds of each variant, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a checkpoint")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    usual, low = (
        load_checkpoint(arguments.model, dtype) for dtype in (torch.float32, torch.bfloat16)
    )
    print("| | float32, s | bfloat16, s | gain |")
    print("|---|---|---|---|")
    for name, work in list_work(usual).items():
        seconds: dict[LoadedModel, list[float]] = {usual: [], low: []}
        for _ in range(arguments.rounds):
            for loaded, own in seconds.items():
                started = time.process_time()
                work(loaded)
                own.append(time.process_time() - started)
        before, after = min(seconds[usual]), min(seconds[low])
        print(f"| {name} | {before:.2f} | {after:.2f} | {before / after:.2f} × |", flush=True)


if __name__ == "__main__":
    main()
