"""What a search measures of each slice, compared with what the verdict finds, for a given patch.

    python benchmarks/protection.py --model FOLDER --patch FILE [--toxicity] [--slices NAME …]

For the search's own items: how many there are, how many different answers they have, what the slice
lost on them, and the bound on what other items may lose. For the verdict's items, which have other
words and formats: what the slice lost, with its interval. Where the bound is below that loss, the
search knows too little of the slice.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from excise.reports.abilities import AbilityChange
from excise.specs.abilities import AbilitiesGateSpec
from workers.abilities.catalogue import SLICES, VERDICT_ITEMS, build_slices
from workers.abilities.encoding import EncodedProbe
from workers.abilities.neighbourhoods import kinds_for
from workers.abilities.probe import SliceKind
from workers.abilities.source import Purpose
from workers.correction.protection import protect_slices, restore
from workers.correction.results import SliceDamage
from workers.correction.slice_damage import compare_slice
from workers.gates.abilities import compare_slices
from workers.measuring.probes import measure_probes
from workers.models.checkpoints import load_checkpoint
from workers.models.tokenizer import Tokenizer
from workers.pruning.components import pruned
from workers.pruning.patch_format import parse_patch

Probes = Mapping[str, Sequence[EncodedProbe]]


def draw_search(tokenizer: Tokenizer, seed: int, kinds: Sequence[SliceKind]) -> Probes:
    """Return the items on which a job with this seed measures its trials."""
    # the limits do not affect which items are drawn
    allowed = SliceDamage(nats_rise=0.1, accuracy_fall=0.05)
    limits = {kind.name: allowed for kind in kinds}
    return {own.name: restore(own.tune) for own in protect_slices(tokenizer, seed, kinds, limits)}


def describe(
    name: str, probes: Sequence[EncodedProbe], lost: SliceDamage, verdict: AbilityChange
) -> str:
    """Return a row of the table."""
    items = sum(len(probe.spans) for probe in probes)
    answers = len({probe.sample.response_ids for probe in probes})
    low, high = verdict.nats_interval
    return (
        f"| {name} | {items}, {answers} | {lost.nats_rise:+.3f} | "
        f"{lost.nats_rise + lost.nats_margin:+.3f} | {verdict.items} | "
        f"{verdict.nats_change:+.3f} [{low:+.3f}, {high:+.3f}] |"
    )


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder of the base")
    parser.add_argument("--patch", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the job")
    parser.add_argument("--items", type=int, default=VERDICT_ITEMS, help="of the verdict's half")
    parser.add_argument("--toxicity", action="store_true", help="its neighbourhood, too")
    parser.add_argument("--slices", nargs="+", help="measure these alone")
    return parser.parse_args()


def main() -> None:
    """Measure both sets of items with and without the patch."""
    arguments = parse_arguments()
    subject = load_checkpoint(arguments.model, torch.float32, "cpu")
    kinds = [
        kind
        for kind in SLICES + kinds_for({"toxicity"} if arguments.toxicity else ())
        if not arguments.slices or kind.name in arguments.slices
    ]
    search = draw_search(subject.tokenizer, arguments.seed, kinds)
    seed, items = arguments.seed, arguments.items
    verdict = build_slices(subject.tokenizer, Purpose.VERDICT, seed, items, kinds)
    before = measure_probes(subject, search), measure_probes(subject, verdict)
    with pruned(subject.model, parse_patch(arguments.patch.read_bytes()).selection):
        after = measure_probes(subject, search), measure_probes(subject, verdict)
    print("| slice | search: items, answers | lost, nats | bound | verdict: items | lost, nats |")
    print("|---|---|---|---|---|---|")
    for change in compare_slices(kinds, before[1], after[1], {}, AbilitiesGateSpec()):
        if (probes := search.get(change.name)) is not None:
            lost = compare_slice(probes, before[0][change.name], after[0][change.name])
            print(describe(change.name, probes, lost, change))


if __name__ == "__main__":
    main()
