"""Circuits of SmolLM2 on tasks from our own templates: their size, faithfulness and reliability.

Units of work (one line of JSON each in --output, so that a stopped run can be resumed):
  templates            logit difference and accuracy of the model for every template and order
  curve/…              one attributor's circuits for one seed, which draws the rows: curve, CPR,
                       CMD, fewest components for 90 %
  patching/…           effects of activation patching and their estimates, two rows per unit
A run starts pending units until --seconds have passed; `--summary` prints the tables.

    python benchmarks/circuits.py --model DIR --output FILE.jsonl [--only PATTERN …] [--seeds 0 1]
        [--seconds 60]
    python benchmarks/circuits.py --output FILE.jsonl --summary
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from patching import (
    compute_pearson,
    estimate_head_effects,
    estimate_mlp_effects,
    measure_head_effects,
    measure_mlp_effects,
)

from excise.names import Attributor, CircuitAblation, CircuitContrast, CircuitOrder, Granularity
from workers.attribution.composites import COMPOSITES
from workers.circuits.discovery import discover_circuit
from workers.circuits.ioi import TEMPLATES, generate_ioi
from workers.circuits.measurement import measure_rows
from workers.circuits.outcome import CircuitSettings
from workers.circuits.tasks import Task
from workers.models.checkpoints import load_checkpoint
from workers.models.loaded import LoadedModel

ROWS = 24
"""Number of discovery rows, and of held-out rows: two for every template and order."""
TEMPLATE_ROWS = 120
PATCHING_TEMPLATE = 2
PATCHING_UNITS = 12
PATCHING_ROWS = 2
DISCOVERY_SEED, HELD_OUT_SEED, PATCHING_SEED = 1, 2, 3
SEED_STRIDE = 10
"""Distance between the draws of consecutive seeds."""

GRADIENTS = ("attnlrp", "cp_lrp", "gradient_x_input")
OTHERS = ("wanda", "activation", "random")
LEVELS = {
    "neuron": (Granularity.NEURON,),
    "head": (Granularity.HEAD,),
    "node": (Granularity.NEURON, Granularity.HEAD),
    "weight": (Granularity.WEIGHT,),
}
KINDS = {
    "counterfactual": (CircuitContrast.CORRUPTED, CircuitAblation.COUNTERFACTUAL),
    "mean": (CircuitContrast.ZERO, CircuitAblation.MEAN),
    "zero": (CircuitContrast.ZERO, CircuitAblation.ZERO),
}

CURVE_FIGURES = ("whole", "empty", "cpr", "cmd")

Unit = Callable[[LoadedModel], dict[str, Any]]


def list_units(seeds: Sequence[int]) -> Iterator[tuple[str, Unit]]:
    """Yield the name and the function of every unit."""
    yield "templates", measure_templates
    for seed, level, kind in itertools.product(seeds, LEVELS, KINDS):
        if level == "weight" and kind != "zero":
            continue  # a weight has no activation that could be replaced
        for attributor in (*GRADIENTS, *OTHERS):
            orders = tuple(CircuitOrder) if attributor in GRADIENTS else (CircuitOrder.ABSOLUTE,)
            for order in orders:
                name = f"curve/{level}/{kind}/{attributor}/{order.value}/{seed}"
                yield name, _curve_unit(level, kind, attributor, order, seed)
    for part in range(PATCHING_UNITS):
        yield f"patching/mlp/{part}", _patching_unit(part, is_head=False)
        yield f"patching/head/{part}", _patching_unit(part, is_head=True)


def measure_templates(checkpoint: LoadedModel) -> dict[str, Any]:
    """Return accuracy and logit difference, clean and corrupted, by template and order."""
    task = generate_ioi(checkpoint.tokenizer, TEMPLATE_ROWS, seed=0)
    clean, corrupted = (
        measure_rows(checkpoint, task.rows, task.metric, corrupted=flag) for flag in (False, True)
    )
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(task.rows):
        groups[row.group].append(index)
    return {
        group: {
            "rows": len(indices),
            "clean": float(clean[indices].mean()),
            "corrupted": float(corrupted[indices].mean()),
            "accuracy": float((clean[indices] > 0).float().mean()),
        }
        for group, indices in {"all": list(range(len(task.rows))), **groups}.items()
    }


def _curve_unit(level: str, kind: str, attributor: str, order: CircuitOrder, seed: int) -> Unit:
    contrast, ablation = KINDS[kind]

    def work(checkpoint: LoadedModel) -> dict[str, Any]:
        settings = CircuitSettings(
            Attributor(attributor),
            LEVELS[level],
            contrast=contrast,
            order=order,
            ablation=ablation,
            seed=seed,
        )
        outcome = discover_circuit(
            checkpoint,
            generate_ioi(checkpoint.tokenizer, ROWS, DISCOVERY_SEED + SEED_STRIDE * seed),
            generate_ioi(checkpoint.tokenizer, ROWS, HELD_OUT_SEED + SEED_STRIDE * seed),
            settings,
        )
        return {
            "components": outcome.components,
            "whole": outcome.whole_metric,
            "empty": outcome.empty_metric,
            "cpr": outcome.cpr,
            "cmd": outcome.cmd,
            "chosen": outcome.chosen.kept,
            "retention": outcome.chosen.retention,
            "faithfulness": {point.share: point.faithfulness for point in outcome.curve},
        }

    return work


def _patching_unit(part: int, *, is_head: bool) -> Unit:
    measure = measure_head_effects if is_head else measure_mlp_effects
    estimate = estimate_head_effects if is_head else estimate_mlp_effects

    def work(checkpoint: LoadedModel) -> dict[str, Any]:
        template = (TEMPLATES[PATCHING_TEMPLATE],)
        generated = generate_ioi(
            checkpoint.tokenizer, PATCHING_UNITS * PATCHING_ROWS, PATCHING_SEED, template
        )
        rows = generated.rows[part * PATCHING_ROWS : (part + 1) * PATCHING_ROWS]
        task = Task(generated.name, generated.metric, rows)
        measured = measure(checkpoint, task)
        estimates = {
            f"{name}/{contrast.value}": estimate(
                checkpoint, COMPOSITES[name], task, contrast=contrast
            ).tolist()
            for name in GRADIENTS
            for contrast in CircuitContrast
        }
        return {"measured": measured.tolist(), **estimates}

    return work


def print_summary(results: dict[str, dict[str, Any]]) -> None:
    """Print the results of the finished units."""
    print("template order | rows | logit difference clean | corrupted | accuracy")
    for group, row in results.get("templates", {}).items():
        print(
            f"{group} | {row['rows']} | {row['clean']:.2f} | {row['corrupted']:.2f} | "
            f"{row['accuracy']:.2f}"
        )
    print("\nlevel/ablation/attributor/order | m(N) | m(∅) | CPR | CMD | fewest for 90 % | of")
    print("(mean ± standard deviation over the seeds; fewest: each seed's)")
    curves: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for name, row in results.items():
        if name.startswith("curve/"):
            curves[name.removeprefix("curve/").rpartition("/")[0]].append(row)
    for name, rows in curves.items():
        figures = " | ".join(_spread([row[key] for row in rows]) for key in CURVE_FIGURES)
        fewest = ", ".join(str(row["chosen"]) for row in rows)
        print(f"{name} | {figures} | {fewest} | {rows[0]['components']}")
    for kind in ("mlp", "head"):
        parts = [row for name, row in results.items() if name.startswith(f"patching/{kind}/")]
        if parts:
            means = {
                key: torch.tensor([part[key] for part in parts]).mean(dim=0) for key in parts[0]
            }
            print(f"\nPearson with activation patching, {kind}, {len(parts) * PATCHING_ROWS} rows")
            for key, values in means.items():
                if key != "measured":
                    print(f"{key} | {compute_pearson(values, means['measured']):.3f}")


def _spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


def main() -> None:
    """Run pending units for some time, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--only", nargs="*", default=["*"], help="only units of such names, * for anything"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="start no unit after these")
    parser.add_argument("--summary", action="store_true")
    arguments = parser.parse_args()
    started = time.monotonic()
    results: dict[str, dict[str, Any]] = {}
    if arguments.output.exists():
        for line in arguments.output.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            results[record["unit"]] = record["result"]
    if arguments.summary:
        print_summary(results)
        return
    checkpoint = load_checkpoint(arguments.model)
    for name, work in list_units(arguments.seeds):
        if name in results or not any(fnmatch(name, pattern) for pattern in arguments.only):
            continue
        if time.monotonic() - started > arguments.seconds:
            break
        begun = time.monotonic()
        record = {"unit": name, "result": work(checkpoint)}
        with arguments.output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(f"{name}: {time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
