"""What a correction damages: every slice of abilities, before and after a patch, in memory.

    python benchmarks/abilities.py --model FOLDER --patch FILE [FILE …]

The figures are those of the gate `abilities` (docs/guides/corrections.md): nats per token on the
right continuations, and the share of items answered correctly. `--seed` draws other probes than job
and gate use, `--toxicity` adds the slices near toxicity, `--slices` restricts the measurement to
the named slices.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from excise.reports.abilities import AbilityChange
from excise.specs.abilities import AbilitiesGateSpec
from workers.abilities.catalogue import SLICES, VERDICT_ITEMS, build_slices
from workers.abilities.neighbourhoods import kinds_for
from workers.abilities.probe import SliceKind
from workers.abilities.source import Purpose
from workers.gates.abilities import compare_slices, judge_abilities
from workers.measuring.probes import measure_probes
from workers.models.checkpoints import load_checkpoint
from workers.pruning.components import pruned
from workers.pruning.patch_format import parse_patch


def print_changes(changes: Sequence[AbilityChange]) -> None:
    """Print one row per slice, and the gate's sentence."""
    print("| slice | base: nats, right | change: nats | right, points | |")
    print("|---|---|---|---|---|")
    for change in changes:
        points = 100 * (change.accuracy_after - change.accuracy_before)
        kept = "within" if change.within else "**lost**"
        print(
            f"| {change.name} | {change.nats_before:.3f}, {change.accuracy_before:.2f} | "
            f"{change.nats_change:+.3f} | {points:+.0f} | "
            f"{kept if change.is_gated else 'base unable'} |"
        )
    gate = judge_abilities(changes)
    said = gate.note or "every slice is within its limits"
    print(f"\n{'met' if gate.passed else 'NOT MET'}: {said}")


def choose_kinds(
    kinds: tuple[SliceKind, ...], names: Sequence[str] | None
) -> tuple[SliceKind, ...]:
    """Return the kinds with these names, or all if there are none; exit at an unknown name."""
    known = [kind.name for kind in kinds]
    if unknown := sorted(set(names or ()) - set(known)):
        known_names = ", ".join(known)
        raise SystemExit(f"--slices: there is no {', '.join(unknown)}; there are {known_names}")
    return tuple(kind for kind in kinds if not names or kind.name in names)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="checkpoint folder of the base")
    parser.add_argument("--patch", type=Path, nargs="+", required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--items", type=int, default=VERDICT_ITEMS)
    parser.add_argument("--toxicity", action="store_true", help="its neighbourhood, too")
    parser.add_argument("--slices", nargs="+", help="measure these alone")
    return parser.parse_args()


def main() -> None:
    """Measure the base once, then every patch."""
    arguments = parse_arguments()
    subject = load_checkpoint(arguments.model, torch.float32, "cpu")
    model, tokenizer = subject.model, subject.tokenizer
    kinds = choose_kinds(
        SLICES + kinds_for({"toxicity"} if arguments.toxicity else ()), arguments.slices
    )
    slices = build_slices(tokenizer, Purpose.VERDICT, arguments.seed, arguments.items, kinds)
    base = measure_probes(subject, slices)
    for path in arguments.patch:
        patch = parse_patch(path.read_bytes())
        with pruned(model, patch.selection):
            changed = measure_probes(subject, slices)
        print(f"\n{path}: {len(patch.selection)} {patch.granularity.value}s\n")
        print_changes(compare_slices(kinds, base, changed, {}, AbilitiesGateSpec()))


if __name__ == "__main__":
    main()
