"""What `serving.max_rank` costs a correction of single weights: the same job under several limits.

Attribution is done once and kept in the folder `--work`; there is one search per limit. Held-out
figures come from prompts, reference text and ability items that no search has used.

    python benchmarks/lines.py --model FOLDER [--ranks 4 none 1 2 8] [--rounds 3] [--prompts 142]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any

from correction import read_toxic_prompts

from excise.specs import CorrectionSpec
from workers.correction.ablation import ablated
from workers.correction.measurement import measure_responses
from workers.correction.results import PreparedCorrection, Response, SearchOutcome, Trial
from workers.domain import TokenSequence
from workers.gates.abilities import compute_nats_rise
from workers.kinds.correction import attribute, prepare, search
from workers.library.checkpoint import OpenCheckpoint, open_checkpoint
from workers.library.context import MemoryContext, Silence
from workers.library.inputs import CorrectionCallInputs
from workers.library.sets import Sets
from workers.measuring.probes import measure_probes
from workers.measuring.text_damage import ReferenceText
from workers.progress import Progress, ignore
from workers.stages.checks import build_check_plan
from workers.stages.context import StageOutput, compute_key

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
SLICE_LIMIT = 0.1
"""Tolerated loss of a slice of abilities, in nats per token."""
SAMPLES = 2
"""Number of responses drawn for each prompt that causes toxicity."""


class KeptContext(MemoryContext):
    """Runs stages in this process; the results of the first two are kept in a folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Silence())
        self._folder = folder

    def run_stage(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[Progress], bytes]
    ) -> StageOutput:
        """Return the stage's result, from the folder if it is there."""
        file = self._folder / f"{name}-{compute_key(name, inputs)[:16]}"
        if file.exists():
            data = file.read_bytes()
            return StageOutput(data, hashlib.sha256(data).hexdigest())
        started = time.monotonic()
        output = super().run_stage(name, inputs, work)
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        if name in ("prepare", "attribute"):
            self._folder.mkdir(parents=True, exist_ok=True)
            file.write_bytes(output.data)
        return output

    def event(
        self,
        type: str,  # noqa: A002 - the name the API uses
        message: str,
        data: Mapping[str, Any] | None = None,
        *,
        once: bool = False,
    ) -> None:
        """Print a stage's event."""
        del type, data, once
        print(f"  {message}", flush=True)


def build_fields(arguments: argparse.Namespace, max_rank: int | None) -> dict[str, Any]:
    """Return the job of `examples/repetition.job.json`, or one for toxicity, under one limit."""
    spec = json.loads((EXAMPLES / "repetition.job.json").read_text())
    if arguments.behaviour == "repetition":
        behaviour = spec["behaviours"][0]
        behaviour["prompts"] = read_lines("repetition_prompts.txt")[: arguments.prompts]
    else:
        rows = read_toxic_prompts(arguments.prompts).decode().splitlines()
        behaviour = {
            "name": "toxicity",
            "kind": "toxicity",
            "prompts": [json.loads(row)["prompt"] for row in rows],
            "decoding": {"samples": SAMPLES},
        }
    return {
        "behaviours": [behaviour],
        "reference": read_lines("reference.txt"),
        "attribution": spec["attribution"],
        "search": {"rounds": arguments.rounds},
        "budget": spec["budget"],
        "gates": {"abilities": {"items": arguments.items}},
        "serving": {"max_rank": max_rank},
    }


def read_lines(name: str) -> list[str]:
    """Return the texts of an example file."""
    lines = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip()]


def run(arguments: argparse.Namespace, max_rank: int | None) -> str:
    """Return the table's row for one limit."""
    checkpoint: OpenCheckpoint = open_checkpoint(arguments.model, device="cpu")
    sets = Sets()
    filed = sets.file_lists(build_fields(arguments, max_rank))
    spec = CorrectionSpec.model_validate({**filed, "kind": "correction", "model": checkpoint.name})
    context = KeptContext(arguments.work)
    with ExitStack() as resources:
        inputs = CorrectionCallInputs(checkpoint, sets, spec, resources)
        prepare_output = prepare.run(context, inputs)
        prepared = PreparedCorrection.model_validate_json(prepare_output.data)
        attributed = attribute.run(context, inputs, prepared, prepare_output)
        started = time.monotonic()
        output = search.run(context, inputs, prepared, attributed)
        seconds = time.monotonic() - started
        outcome = SearchOutcome.model_validate_json(output.data)
        return describe(inputs, prepared, outcome, max_rank, seconds)


def describe(
    inputs: CorrectionCallInputs,
    prepared: PreparedCorrection,
    outcome: SearchOutcome,
    max_rank: int | None,
    seconds: float,
) -> str:
    """Return the row: the effect of the chosen trial on tuning and on held-out data."""
    limit = "no limit" if max_rank is None else str(max_rank)
    trial = outcome.chosen_trial
    if trial is None:
        return f"| {limit} | nothing within budget | {seconds:.0f} |"
    lines = outcome.lines
    assert lines is not None
    ranks = lines.ranks.values()
    cells = [
        limit,
        f"{trial.amount:,}",
        f"{max(ranks)}, {fmean(ranks):.1f}",
        f"{100 * trial.gain:.1f} %",
        *measure_held_out(inputs, prepared, trial),
        f"{seconds:.0f}",
    ]
    if (found := lines.forecast) is not None:
        cells.append(f"{found.benefit:.2f}; {found.free_rank}")
    return f"| {' | '.join(cells)} |"


def measure_held_out(
    inputs: CorrectionCallInputs, prepared: PreparedCorrection, trial: Trial
) -> list[str]:
    """Return undesiredness, KL, perplexity and the slices beyond their limit, on held-out data."""
    base, behaviour = inputs.base, inputs.behaviours[0]
    prompts = prepared.behaviours[0].triggering(held_out=True)
    text = ReferenceText(base, [TokenSequence(ids) for ids in prepared.reference.held_out])
    probes = build_check_plan(inputs, prepared).abilities
    before = measure_probes(base, probes)
    with ablated(base, trial.selection.to_selection(), trial.settings, []):
        responses = measure_responses(base, behaviour, prompts, inputs.spec.seed, ignore)
        damage = text.measure(base)
        after = measure_probes(base, probes)
    rises = {name: compute_nats_rise(before[name], after[name]) for name in probes}
    worst = max(rises, key=rises.__getitem__)
    over = sum(rise > SLICE_LIMIT for rise in rises.values())
    unchanged = compute_mean([outcome.responses for outcome in prompts])
    return [
        f"{unchanged:.3f} → {compute_mean(responses):.3f}",
        f"{damage.kl_mean:.4f}",
        f"{100 * damage.compute_increase(text.base_perplexity):+.1f} %",
        f"{over} of {len(rises)}, {worst} {rises[worst]:+.3f}",
    ]


def compute_mean(responses: Sequence[Sequence[Response]]) -> float:
    """Return the first scorer's mean over all responses."""
    return fmean(response.scores[0] for samples in responses for response in samples)


def parse_limit(text: str) -> int | None:
    """Parse a rank, or `none`."""
    return None if text == "none" else int(text)


def main() -> None:
    """Print the table, each row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--behaviour", choices=["repetition", "toxicity"], default="repetition")
    parser.add_argument("--ranks", nargs="+", default=["4", "none", "1", "2", "8"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=142)
    parser.add_argument("--items", type=int, default=20, help="of each slice, held out")
    parser.add_argument("--work", type=Path, default=Path("lines-work"))
    arguments = parser.parse_args()
    print(
        "| max_rank | weights | rank of fullest, mean | gain tuning | held out | KL | perplexity "
        "| slices over 0.1 nats, worst | seconds | share of benefit kept; free rank |"
    )
    for limit in map(parse_limit, arguments.ranks):
        print(run(arguments, limit), flush=True)


if __name__ == "__main__":
    main()
