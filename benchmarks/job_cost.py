"""What a correction of single weights costs: memory, disk and seconds per stage, of a whole job.

    python benchmarks/job_cost.py --model FOLDER_OF_SMOLLM2 [--limit-gib 10] [--prompts 60]

Runs the job on SmolLM2 and on a Llama with 1.1 billion random weights in bfloat16 (TinyLlama's
shape, SmolLM2's tokenizer), one after the other, each in a process of its own with one thread.
Prints peak resident memory ÷ size of the weights, bytes in the artifact store ÷ number of pruned
weights, and the seconds of each stage. Goals: 3.0 and 2.0 times the weights, 200 bytes per pruned
weight, and the larger model within 10 GiB. The job runs as in a service, with stages and results
stored in the same way (findings, progress, files), but without a database; what is left in the
store is counted. Answers of random weights count as loops unless nearly every word is another.

The limit is set by a control group (version 2 or 1) if this process may create one, and otherwise
on the process's private memory; the output says which. The larger model's gates are not evaluated:
random weights have no abilities to lose.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from whole_job import (
    SEED,
    build_random_llama,
    build_shape,
    read_peak,
    run_whole_job,
    tell_elapsed,
)

from workers.library.checkpoint import open_checkpoint

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30
LARGE = build_shape("1.1B (TinyLlama)", max_position_embeddings=2048)
"""TinyLlama's shape: 1.1 billion weights with SmolLM2's vocabulary."""
GOALS = {"small": 3.0, "large": 2.0}
"""Peak resident memory ÷ weights."""
RANDOM_THRESHOLD = 0.99
"""Uniqueness below which answers of random weights, which hardly repeat a word, count as loops."""
RANDOM_BUDGET = {"perplexity_increase": 1e6, "kl_mean": 1e6}
"""Any damage: there is nothing to damage."""
BYTES_GOAL = 200
"""Bytes in the artifact store ÷ number of pruned weights."""


def read_lines(name: str, count: int) -> list[str]:
    """Return the first lines of one of the example files."""
    return (ROOT / "examples" / name).read_text(encoding="utf-8").splitlines()[:count]


def build_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the job's spec, with the texts themselves in place of sets."""
    decoding = {"max_new_tokens": arguments.new_tokens}
    prompts = read_lines("repetition_prompts.txt", arguments.prompts)
    behaviour: dict[str, Any] = {
        "kind": "repetition",
        "name": "repetition",
        "prompts": prompts,
    }
    if arguments.is_random:
        behaviour |= {"threshold": RANDOM_THRESHOLD}
    return {
        "behaviours": [{**behaviour, "decoding": decoding}],
        "budget": RANDOM_BUDGET if arguments.is_random else {},
        "reference": read_lines("reference.txt", 64),
        "attribution": {"granularity": "weight", "reference_tokens": arguments.reference_tokens},
        "search": {"rounds": arguments.rounds},
        "gates": {"abilities": None},
        "protect": {} if arguments.protect else None,
        "seed": SEED,
    }


def run_job(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the job in this process and return its figures."""
    torch.set_num_threads(1)
    checkpoint = open_checkpoint(arguments.model, dtype=arguments.dtype, device="cpu")
    found = run_whole_job(checkpoint, build_fields(arguments), tell_elapsed())
    if found.outcome is None:
        raise SystemExit("too few prompts bring the behaviour out; give more with --prompts")
    parameters = set(checkpoint.loaded.model.parameters())
    return {
        "verdict": found.verdict,
        "weights": sum(own.numel() * own.element_size() for own in parameters),
        "peak": read_peak(),
        "peaks": found.context.peaks,
        "stored": found.stored,
        "published": found.context.published,
        "pruned": found.most_pruned,
        "seconds": found.context.load_stage_seconds(),
    }


@contextmanager
def limited(limit: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield how a child is kept within `limit` bytes, and what it must call for that."""
    with ExitStack() as undo:
        for root, name in (("", "memory.max"), ("memory", "memory.limit_in_bytes")):
            group = Path("/sys/fs/cgroup") / root / f"excise-job-cost-{os.getpid()}"
            try:
                group.mkdir()
                undo.callback(group.rmdir)
                if not (group / "cgroup.procs").exists():  # an ordinary folder
                    continue
                (group / name).write_text(str(limit))
            except OSError:
                continue

            def enter(group: Path = group) -> None:
                (group / "cgroup.procs").write_text(str(os.getpid()))

            yield f"control group ({name})", enter
            return
        yield (
            "limit on private memory (RLIMIT_DATA)",
            lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),
        )


def measure(model: Path, dtype: str, limit: int, *options: str) -> dict[str, Any]:
    """Return the figures of the job, run in a child process of its own."""
    command = [
        sys.executable,
        __file__,
        *sys.argv[1:],
        "--model",
        str(model),
        "--dtype",
        dtype,
        "--child",
        *options,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with limited(limit) as (how, enter):
        done = subprocess.run(
            command,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            preexec_fn=enter,
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "limit": f"{limit / GIB:.0f} GiB by {how}"}


def show(name: str, found: Mapping[str, Any]) -> None:
    """Print the figures of one job."""
    weights = found["weights"]
    peaks = ", ".join(f"{stage} {peak / weights:.2f}" for stage, peak in found["peaks"].items())
    seconds = ", ".join(f"{stage} {spent:.0f}" for stage, spent in found["seconds"].items())
    stored, published = (found[key] / max(1, found["pruned"]) for key in ("stored", "published"))
    print(f"{name}: {weights / 2**20:.0f} MiB of weights, within {found['limit']}")
    print(f"  peak resident ÷ weights {found['peak'] / weights:.2f} (goal {GOALS[name]}): {peaks}")
    print(
        f"  artifact bytes ÷ pruned weight {stored:.0f} (goal {BYTES_GOAL}): "
        f"{found['stored']} bytes, {found['pruned']} weights; {published:.0f} when results of "
        "stages have expired"
    )
    print(f"  seconds: {seconds}; {found['verdict']}", flush=True)


def main() -> None:
    """Measure both models and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="SmolLM2's folder")
    parser.add_argument("--only", choices=["small", "large"], help="one of the two models")
    parser.add_argument("--limit-gib", type=float, default=10.0)
    parser.add_argument("--prompts", type=int, default=60)
    parser.add_argument("--new-tokens", type=int, default=50)
    parser.add_argument("--reference-tokens", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--protect", action="store_true", help="guard the built-in slices, too")
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    parser.add_argument("--is-random", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(run_job(arguments)))
        return
    limit = round(arguments.limit_gib * GIB)
    if arguments.only != "large":
        show("small", measure(arguments.model, "float32", limit))
    if arguments.only != "small":
        with tempfile.TemporaryDirectory(prefix="excise-large-") as folder:
            build_random_llama(LARGE, arguments.model, Path(folder))
            show("large", measure(Path(folder), "bfloat16", limit, "--is-random"))


if __name__ == "__main__":
    main()
