"""How well toxicity scorers separate labelled texts, and how far they agree.

Prints the ROC-AUC of each scorer and Cohen's kappa of each pair (both at 0.5, or --threshold) on
the labelled sets of the data folder (../shared/data or EXCISE_DATA), as Markdown with 95 %
intervals: DeLong's for the areas, 2,000 bootstrap tables for kappa. From larger sets, --rows are
drawn with the seed. RealToxicityPrompts' labels come from another classifier (Perspective ≥ 0.5),
all others from people.

    python benchmarks/scorers.py [--evaluators alt-profanity-check detoxify/detoxify_minilm]
        [--rows 1000] [--sets hatecheck …] [--detoxify-root DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scorer_metrics import compute_kappa, compute_roc_auc

from workers.fetching.detoxify import find_detoxify
from workers.scorers.detoxify import load_detoxify
from workers.scorers.profanity import DISTRIBUTION, load_profanity
from workers.scorers.scorer import Answer, BehaviourScorer

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("EXCISE_DATA", ROOT.parent / "shared" / "data"))
RESAMPLES = 2_000

Labelled = tuple[str, bool]
Row = dict[str, Any]


@dataclass(frozen=True)
class LabelledSet:
    """A file of labelled texts, and how to read its rows."""

    file: str
    title: str
    read: Callable[[Row], list[Labelled]]


def _read_toxic(row: Row) -> list[Labelled]:
    return [(row["text"], int(row["toxic"]) == 1)]


def _read_paradetox(row: Row) -> list[Labelled]:
    return [(row["toxic"], True), *((text, False) for text in row["neutral"][:1])]


def _read_continuation(row: Row) -> list[Labelled]:
    toxicity = row["continuation_toxicity"]
    return [] if toxicity is None else [(row["continuation"], toxicity >= 0.5)]


SETS = (
    LabelledSet("jigsaw", "Jigsaw, toxic", _read_toxic),
    LabelledSet("wiki_toxicity", "Wikipedia talk, toxic", _read_toxic),
    LabelledSet(
        "davidson",
        "Davidson, hate or offensive",
        lambda row: [(row["text"], row["label"] != "neither")],
    ),
    LabelledSet("paradetox", "ParaDetox, toxic or its paraphrase", _read_paradetox),
    LabelledSet(
        "real_toxicity_prompts",
        "RealToxicityPrompts, continuations",
        _read_continuation,
    ),
    LabelledSet(
        "hatecheck", "HateCheck, hateful", lambda row: [(row["text"], row["label"] == "hateful")]
    ),
    LabelledSet("toxigen", "ToxiGen, hate", lambda row: [(row["text"], row["label"] == "hate")]),
)


def read_set(labelled: LabelledSet, rows: int) -> list[Labelled]:
    """Return at most `rows` texts of a set with their labels, drawn with a fixed seed."""
    with (DATA / f"{labelled.file}.jsonl").open(encoding="utf-8") as file:
        texts = [text for line in file for text in labelled.read(json.loads(line))]
    return random.Random(0).sample(texts, min(rows, len(texts)))


def load_scorers(names: Sequence[str], roots: Sequence[Path]) -> Iterator[BehaviourScorer]:
    """Yield the named scorers."""
    for name in names:
        if name == DISTRIBUTION:
            yield load_profanity()
        else:
            yield load_detoxify(find_detoxify(name.removeprefix("detoxify/"), roots))


def format_kappa(first: Sequence[bool], second: Sequence[bool]) -> str:
    """Return kappa with its bootstrap interval, from 2×2 tables drawn from the observed one."""
    kappa = compute_kappa(first, second)
    if kappa is None:
        return "undefined"
    codes = np.asarray(first, dtype=int) * 2 + np.asarray(second, dtype=int)
    shares = np.bincount(codes, minlength=4) / len(codes)
    tables = np.random.default_rng(0).multinomial(len(codes), shares, RESAMPLES) / len(codes)
    no, second_only, first_only, both = tables.T
    chance = (first_only + both) * (second_only + both) + (no + second_only) * (no + first_only)
    drawn = (no + both - chance) / np.maximum(1 - chance, 1e-12)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{kappa:.2f} [{low:.2f}, {high:.2f}]"


def measure(
    labelled: LabelledSet, scorers: Sequence[BehaviourScorer], rows: int, threshold: float
) -> list[str]:
    """Return the cells of one set's row."""
    texts = read_set(labelled, rows)
    labels = [label for _, label in texts]
    answers = [Answer("", text, ()) for text, _ in texts]
    cells = [labelled.title, f"{len(labels):,} ({sum(labels):,})"]
    verdicts = []
    for scorer in scorers:
        scores = scorer.score(answers)
        area = compute_roc_auc(labels, scores)
        verdicts.append([score >= threshold for score in scores])
        found = sum(shown for shown, label in zip(verdicts[-1], labels, strict=True) if label)
        cells.append(f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]")
        cells.append(f"{found / sum(labels):.2f}")
    pairs = combinations(verdicts, 2)
    return [*cells, *(format_kappa(first, second) for first, second in pairs)]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--evaluators", nargs="+", default=[DISTRIBUTION, "detoxify/detoxify_minilm"]
    )
    parser.add_argument("--rows", type=int, default=1_000, help="texts of each set, at most")
    parser.add_argument("--sets", nargs="+", default=[labelled.file for labelled in SETS])
    parser.add_argument("--threshold", type=float, default=0.5)
    parser.add_argument("--detoxify-root", type=Path, default=DATA)
    arguments = parser.parse_args()
    scorers = list(load_scorers(arguments.evaluators, [arguments.detoxify_root]))
    names = [scorer.name for scorer in scorers]
    header = ["set", "texts (toxic)"]
    header += [cell for name in names for cell in (f"ROC-AUC of {name}", "finds")]
    header += [f"kappa, {first} and {second}" for first, second in combinations(names, 2)]
    print("| " + " | ".join(header) + " |", "|" + "---|" * len(header), sep="\n", flush=True)
    started = time.perf_counter()
    for labelled in (labelled for labelled in SETS if labelled.file in arguments.sets):
        cells = measure(labelled, scorers, arguments.rows, arguments.threshold)
        print("| " + " | ".join(cells) + " |", flush=True)
    print(
        f"\n{time.perf_counter() - started:.0f} s; finds: share of toxic texts at or above "
        f"{arguments.threshold:g}"
    )


if __name__ == "__main__":
    main()
