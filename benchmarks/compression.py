"""Perplexity and zero-shot accuracy after removing a share of every row, by several scores.

A variant is a score with one choice of calibration samples (the seed draws windows of C4). The
benchmark runs in pieces: every finished figure is a line of --output, prune masks are stored beside
it, and a run that stops after --seconds (exit status 75) continues when it is started again. Zero
weights make nothing faster here, so the figures show what is lost, not what is gained. Needs the
data folder (../shared/data or EXCISE_DATA).

    until python benchmarks/compression.py --output FILE [--seeds 0 1 2]; do sleep 1; done
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from excise.names import Attributor, Calibration, Statistic, ZeroShotTask
from workers.attribution.targets import Target
from workers.compression.calibration import draw_calibration_samples
from workers.compression.compress import compress
from workers.compression.plan import SPEED_NOTE, CompressionPlan, NOfM, RowShare
from workers.domain import TokenSequence
from workers.families import Family, find_family, find_linear_modules
from workers.measuring.text_damage import compute_perplexity
from workers.measuring.zero_shot import measure_accuracy
from workers.measuring.zero_shot_tasks import parse_questions, sample_questions
from workers.models.checkpoints import load_checkpoint
from workers.models.encoding import cut_corpus, encode_part, encode_text, find_beginning
from workers.models.loaded import LoadedModel

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("EXCISE_DATA", ROOT.parent / "shared" / "data"))
HOME = Path(os.environ.get("EXCISE_HOME", ROOT / ".excise"))
UNFINISHED = 75
PERPLEXITY = "perplexity"
PAPER = {"dense": 7.98, "attnlrp": 11.85, "wanda": 11.52, "magnitude": 24.42}
"""The paper's WikiText-2 perplexity of TinyLlama at 50 % (arXiv 2506.13727v1, Table 1)."""


@dataclass(frozen=True)
class Variant:
    """`dense`, or an attributor followed by its deviations from a plan's defaults, joined by `+`.

    These are a statistic, a target, or `sequential`: `attnlrp+mean+sequential`.
    """

    method: str
    seed: int

    @property
    def name(self) -> str:
        """Name of the variant in output lines and of its mask."""
        return f"{self.method}@{self.seed}"


class Bench:
    """Model, data and the measurements so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.output: Path = arguments.output
        self.masks = self.output.with_suffix(".masks")
        self.masks.mkdir(parents=True, exist_ok=True)
        self.figures: dict[tuple[str, str], dict[str, float]] = {}
        if self.output.exists():
            for line in self.output.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                self.figures[entry["variant"], entry["measure"]] = entry["figures"]

    @cached_property
    def checkpoint(self) -> LoadedModel:
        """The model, loaded on first use."""
        return load_checkpoint(self.arguments.model, getattr(torch, self.arguments.dtype))

    @property
    def family(self) -> Family:
        """The loaded model's family."""
        return find_family(self.checkpoint.model)

    def record(self, variant: Variant, measure: str, figures: dict[str, float]) -> None:
        """Append one measurement to the output."""
        self.figures[variant.name, measure] = figures
        with self.output.open("a", encoding="utf-8") as file:
            entry = {"variant": variant.name, "measure": measure, "figures": figures}
            file.write(json.dumps(entry) + "\n")
        print(variant.name, measure, figures, flush=True)

    def draw_samples(self, seed: int) -> tuple[TokenSequence, ...]:
        """Return calibration windows of C4."""
        with (DATA / "c4.jsonl").open(encoding="utf-8") as file:
            texts = [json.loads(line)["text"] for line in file]
        tokenizer = self.checkpoint.tokenizer
        documents = [encode_part(tokenizer, text) for text in texts]
        length, count = self.arguments.sample_tokens, self.arguments.samples
        return draw_calibration_samples(documents, length, count, seed, find_beginning(tokenizer))

    def prune(self, variant: Variant) -> None:
        """Compress the loaded model and store the positions of its zeros."""
        method, *changes = variant.method.split("+")
        plan = CompressionPlan(
            Attributor(method),
            parse_pattern(self.arguments.pattern),
            statistic=find_member(Statistic, changes, Statistic.MEAN_ABSOLUTE),
            calibration=find_member(Calibration, changes, Calibration.ONE_SHOT),
            target=find_member(Target, changes, Target.TOP_LOGIT),
            blocks_at_once=self.arguments.blocks_at_once,
            seed=variant.seed,
            batch_tokens=self.arguments.batch_tokens,
        )
        model = self.checkpoint.model
        start = time.monotonic()
        samples = self.draw_samples(variant.seed)
        outcome = compress(self.checkpoint, plan, samples)
        masks = {
            name: np.packbits((module.weight == 0).numpy())
            for name, module in find_linear_modules(model, self.family).items()
        }
        np.savez(self.masks / f"{variant.name}.npz", **masks)
        seconds = round(time.monotonic() - start, 1)
        figures = {"sparsity": outcome.achieved_sparsity, "seconds": seconds}
        self.record(variant, "pruning", figures)

    @torch.no_grad()
    def apply_mask(self, variant: Variant) -> None:
        """Set the variant's zeros in the loaded, unpruned model."""
        modules = find_linear_modules(self.checkpoint.model, self.family)
        with np.load(self.masks / f"{variant.name}.npz") as masks:
            for name, module in modules.items():
                weight = module.weight
                assert isinstance(weight, torch.Tensor)
                bits = np.unpackbits(masks[name], count=weight.numel())
                weight.masked_fill_(torch.from_numpy(bits).bool().view(weight.shape), 0)

    def measure(self, variant: Variant, measure: str) -> None:
        """Measure the loaded model in its current state: perplexity, or one task's accuracy."""
        start = time.monotonic()
        if measure == PERPLEXITY:
            text = (DATA / "wikitext2_test.txt").read_text(encoding="utf-8")
            context, count = self.arguments.context, self.arguments.sequences
            windows = cut_corpus(self.checkpoint.tokenizer, text.splitlines(), context, count)
            samples = [TokenSequence(window) for window in windows]
            size = self.arguments.batch_tokens
            found = compute_perplexity(self.checkpoint, samples, batch_tokens=size)
            figures = {"value": found.value, "tokens": found.tokens}
        else:
            task = ZeroShotTask(measure)
            file = DATA / f"task_{task}.jsonl"
            with file.open(encoding="utf-8") as lines:
                questions = parse_questions(lines, task, file.name)
            questions = sample_questions(questions, self.arguments.limit, seed=0)
            size = self.arguments.batch_tokens
            encode = partial(encode_text, self.checkpoint.tokenizer)
            accuracy = measure_accuracy(self.checkpoint, encode, task, questions, batch_tokens=size)
            figures = {
                "value": accuracy.accuracy,
                "error": accuracy.accuracy_error,
                "normalised": accuracy.normalised_accuracy,
                "normalised_error": accuracy.normalised_accuracy_error,
                "questions": accuracy.questions,
            }
        seconds = round(time.monotonic() - start, 1)
        self.record(variant, measure, {**figures, "seconds": seconds})


Member = TypeVar("Member", bound=StrEnum)


def find_member(members: type[Member], names: Sequence[str], default: Member) -> Member:
    """Return the member whose value is one of `names`, or else `default`."""
    return next((member for member in members if member.value in names), default)


def parse_pattern(text: str) -> RowShare | NOfM:
    """Parse `0.5`, or `2:4` for two zeros in every four."""
    kept, colon, group = text.partition(":")
    return NOfM(int(group) - int(kept), int(group)) if colon else RowShare(float(text))


def list_variants(methods: Sequence[str], seeds: Sequence[int]) -> Iterator[Variant]:
    """Yield every method with every seed, seed by seed; methods without samples appear once."""
    for seed in seeds:
        for method in methods:
            if seed == seeds[0] or method not in ("dense", "magnitude"):
                yield Variant(method, seed)


def run(bench: Bench, variants: Sequence[Variant]) -> bool:
    """Run what is missing, up to one variant; return whether everything is done.

    Pruning cannot be undone, so the next variant needs a new process.
    """
    deadline = time.monotonic() + bench.arguments.seconds
    measures = [PERPLEXITY, *bench.arguments.tasks]
    for variant in variants:
        missing = [name for name in measures if (variant.name, name) not in bench.figures]
        if not missing:
            continue
        if variant.method != "dense":
            if (bench.masks / f"{variant.name}.npz").exists():
                bench.apply_mask(variant)
            else:
                bench.prune(variant)
        for name in missing:
            if time.monotonic() > deadline:
                return False
            bench.measure(variant, name)
        return variant == variants[-1]
    return True


def format_table(bench: Bench, variants: Sequence[Variant]) -> str:
    """Return a Markdown table: mean ± standard deviation over seeds, tasks as plain/normalised."""
    measures = [PERPLEXITY, *bench.arguments.tasks]
    lines = [
        f"| score | seeds | {' | '.join(measures)} | paper, TinyLlama 50 % |",
        "|---" * (len(measures) + 3) + "|",
    ]
    for method in dict.fromkeys(variant.method for variant in variants):
        names = [variant.name for variant in variants if variant.method == method]
        cells = []
        for measure in measures:
            found = [f for name in names if (f := bench.figures.get((name, measure)))]
            parts = [_spread([figures["value"] for figures in found])]
            if measure != PERPLEXITY:
                parts.append(_spread([figures["normalised"] for figures in found]))
            cells.append(" / ".join(parts))
        paper = PAPER.get(method, "")
        lines.append(f"| {method} | {len(names)} | {' | '.join(cells)} | {paper} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.4g}"
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    methods = ["dense", "attnlrp", "wanda", "magnitude", "gradient_x_input", "random"]
    parser.add_argument("--methods", nargs="+", default=methods)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pattern", default="0.5", help="share of each row, or kept:group")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--sample-tokens", type=int, default=128)
    parser.add_argument("--blocks-at-once", type=int, default=10)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument("--limit", type=int, default=40, help="questions a task")
    tasks = [task.value for task in ZeroShotTask]
    parser.add_argument("--tasks", nargs="*", choices=tasks, default=tasks)
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    model = HOME / "models" / "smollm2-135m-instruct"
    parser.add_argument("--model", type=Path, default=model)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60, help="start no measurement after")
    return parser.parse_args()


def main() -> None:
    """Continue the measurements and print the table of all results so far."""
    arguments = parse_arguments()
    bench = Bench(arguments)
    variants = list(list_variants(arguments.methods, arguments.seeds))
    finished = run(bench, variants)
    print(format_table(bench, variants))
    print(SPEED_NOTE)
    if not finished:
        sys.exit(UNFINISHED)


if __name__ == "__main__":
    main()
