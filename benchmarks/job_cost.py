"""What a correction of single weights costs: memory, disk and seconds a stage, of a whole job.

    python benchmarks/job_cost.py --model FOLDER_OF_SMOLLM2 [--limit-gib 10] [--prompts 60]

Runs the job on SmolLM2 and on a Llama with 1.1 billion random weights in bfloat16 (TinyLlama's
shape, SmolLM2's tokenizer), one after the other, each in a process of its own with one thread,
and prints peak resident memory ÷ weights, bytes in the artifact store ÷ pruned weight, and the
seconds of each stage. Goals: 3.0 and 2.0 times the weights, 200 bytes a pruned weight, and the
larger model within 10 GiB. The job is that of a service, its stages and their results stored as
there (findings, progress, files), without a database: what is left in the store is what is counted.

The limit is a control group's where this process may make one (version 2 or 1), else one on the
process's private memory; which of them is said. The larger model's gates are not looked at:
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
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from excise.specs import CorrectionSpec
from service.artifacts import ArtifactStore, open_artifact_store
from workers.correction.results import SearchOutcome
from workers.kinds.correction.pipeline import run_correction
from workers.library.checkpoint import open_checkpoint
from workers.library.context import MemoryContext, Silence
from workers.library.inputs import CorrectionCallInputs
from workers.library.sets import Sets
from workers.progress import Progress
from workers.stages.context import StageOutput

ROOT = Path(__file__).resolve().parent.parent
GIB = 1 << 30
LARGE = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
"""TinyLlama's shape: 1.1 billion weights with SmolLM2's vocabulary."""
GOALS = {"small": 3.0, "large": 2.0}
"""Peak resident memory ÷ weights."""
BYTES_GOAL = 200
"""Bytes in the artifact store ÷ pruned weight."""
SEED = 0


class StoringContext(MemoryContext):
    """Keeps what a service's job keeps, in an artifact store."""

    def __init__(self, store: ArtifactStore, report: Callable[[str], None]) -> None:
        super().__init__(Silence())
        self._store = store
        self._report = report
        self._saved: dict[tuple[str, str], str] = {}
        self.outputs: dict[str, bytes] = {}
        self.peaks: dict[str, int] = {}

    def run_stage(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[Progress], bytes]
    ) -> StageOutput:
        """Run the stage and store its result."""
        self._report(f"{name} …")
        output = super().run_stage(name, inputs, work)
        self._store.put_bytes(output.data)
        self.outputs[name] = output.data
        self.peaks[name] = read_peak()
        self._report(f"{name}: peak so far {self.peaks[name] / 2**20:.0f} MiB")
        return output

    def remember(self, name: str, key: str, work: Callable[[], bytes]) -> bytes:
        """Store a finding."""
        data = super().remember(name, key, work)
        self._store.put_bytes(data)
        return data

    def save(self, name: str, key: str, data: bytes) -> None:
        """Store how far a stage came, in place of what was stored before."""
        self.forget(name, key)
        self._saved[name, key] = self._store.put_bytes(data)

    def forget(self, name: str, key: str) -> None:
        """Delete it again."""
        sha256 = self._saved.pop((name, key), None)
        if sha256 is not None:
            self._store.delete(sha256)

    def publish_file(self, name: str, data: bytes, media_type: str) -> None:
        """Store a file."""
        super().publish_file(name, data, media_type)
        self._store.put_bytes(data)


def read_peak() -> int:
    """Return the most memory that this process has held, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def build_large(tokenizer: Path, folder: Path) -> None:
    """Write the larger model into `folder`, its weights random, in bfloat16."""
    own: Any = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    config = LlamaConfig(
        vocab_size=len(own),
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
        **LARGE,
    )
    torch.manual_seed(SEED)
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    own.save_pretrained(folder)


def read_lines(name: str, count: int) -> list[str]:
    """Return the first lines of one of the examples' files."""
    return (ROOT / "examples" / name).read_text(encoding="utf-8").splitlines()[:count]


def build_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the job's spec with the texts themselves where it names a set."""
    decoding = {"max_new_tokens": arguments.new_tokens}
    prompts = read_lines("repetition_prompts.txt", arguments.prompts)
    behaviour = {"kind": "repetition", "name": "repetition", "prompts": prompts}
    return {
        "behaviours": [{**behaviour, "decoding": decoding}],
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
    sets = Sets()
    fields = sets.file_lists(build_fields(arguments))
    spec = CorrectionSpec.model_validate(
        {**fields, "kind": "correction", "model": checkpoint.name, "dtype": checkpoint.dtype}
    )
    started = time.monotonic()

    def report(what: str) -> None:
        print(f"  {time.monotonic() - started:7.0f} s  {what}", file=sys.stderr, flush=True)

    with ExitStack() as resources, tempfile.TemporaryDirectory(prefix="excise-store-") as folder:
        context = StoringContext(open_artifact_store(folder), report)
        inputs = CorrectionCallInputs(checkpoint, sets, spec, resources)
        found = run_correction(context, inputs)
        stored = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    if "search" not in context.outputs:
        raise SystemExit("too few prompts bring the behaviour out; give more with --prompts")
    outcome = SearchOutcome.model_validate_json(context.outputs["search"])
    parameters = set(checkpoint.loaded.model.parameters())
    return {
        "verdict": found.verdict.value,
        "weights": sum(own.numel() * own.element_size() for own in parameters),
        "peak": read_peak(),
        "peaks": context.peaks,
        "stored": stored,
        "pruned": max((trial.amount for trial in outcome.trials), default=0),
        "seconds": context.load_stage_seconds(),
    }


@contextmanager
def limited(limit: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield what keeps a child within `limit` bytes, and what it has to call for that."""
    with ExitStack() as undo:
        for root, name in (("", "memory.max"), ("memory", "memory.limit_in_bytes")):
            group = Path("/sys/fs/cgroup") / root / f"excise-job-cost-{os.getpid()}"
            try:
                group.mkdir()
                undo.callback(group.rmdir)
                if not (group / "cgroup.procs").exists():  # a mere folder
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


def measure(model: Path, dtype: str, limit: int) -> dict[str, Any]:
    """Return the figures of the job in a child process of its own."""
    command = [
        sys.executable,
        __file__,
        *sys.argv[1:],
        "--model",
        str(model),
        "--dtype",
        dtype,
        "--child",
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
    stored = found["stored"] / max(1, found["pruned"])
    print(f"{name}: {weights / 2**20:.0f} MiB of weights, within {found['limit']}")
    print(f"  peak resident ÷ weights {found['peak'] / weights:.2f} (goal {GOALS[name]}): {peaks}")
    print(
        f"  artifact bytes ÷ pruned weight {stored:.0f} (goal {BYTES_GOAL}): "
        f"{found['stored']} bytes, {found['pruned']} weights"
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
            build_large(arguments.model, Path(folder))
            show("large", measure(Path(folder), "bfloat16", limit))


if __name__ == "__main__":
    main()
