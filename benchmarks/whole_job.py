"""Parts shared by the benchmarks of whole jobs: a random model, a store, and measured stages."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from estimates import MODELS
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from excise.specs import CorrectionSpec
from service.artifacts import ArtifactStore, open_artifact_store
from workers.correction.results import SearchOutcome
from workers.kinds.correction.pipeline import run_correction
from workers.library.checkpoint import OpenCheckpoint
from workers.library.context import MemoryContext, Silence
from workers.library.inputs import CorrectionCallInputs
from workers.library.sets import Sets
from workers.models.heap import map_large_blocks
from workers.models.quiet import quiet_transformers
from workers.progress import Progress
from workers.stages.context import StageOutput

SEED = 0

Around = Callable[[str], AbstractContextManager[object]]
"""Returns the context in which the stage with this name runs."""


class StoringContext(MemoryContext):
    """Keeps what a service keeps of a job, in an artifact store."""

    def __init__(
        self, store: ArtifactStore, report: Callable[[str], None], around: Around = nullcontext
    ) -> None:
        super().__init__(Silence())
        self._store = store
        self._report = report
        self._around = around
        self._saved: dict[tuple[str, str], str] = {}
        self.outputs: dict[str, bytes] = {}
        self.peaks: dict[str, int] = {}
        self.published = 0
        """Bytes of the files that stay when the results of stages expire."""

    def run_stage(
        self, name: str, inputs: Mapping[str, Any], work: Callable[[Progress], bytes]
    ) -> StageOutput:
        """Run the stage and store its result."""
        self._report(f"{name} …")
        with self._around(name):
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
        """Save the progress of a stage, replacing what was saved before."""
        self.forget(name, key)
        self._saved[name, key] = self._store.put_bytes(data)

    def forget(self, name: str, key: str) -> None:
        """Delete what was saved."""
        sha256 = self._saved.pop((name, key), None)
        if sha256 is not None:
            self._store.delete(sha256)

    def publish_file(self, name: str, data: bytes, media_type: str) -> None:
        """Store a file."""
        super().publish_file(name, data, media_type)
        self._store.put_bytes(data)
        self.published += len(data)


def tell_elapsed() -> Callable[[str], None]:
    """Return a callback that prints a stage to stderr, with the seconds since now."""
    started = time.monotonic()

    def tell(what: str) -> None:
        print(f"  {time.monotonic() - started:7.0f} s  {what}", file=sys.stderr, flush=True)

    return tell


def read_peak() -> int:
    """Return the peak memory of this process, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def build_shape(name: str, **changes: Any) -> dict[str, Any]:
    """Return the shape of one of the models of `estimates.py`, without a vocabulary size."""
    shape = {key: value for key, value in MODELS[name].items() if key != "vocab_size"}
    return shape | {"tie_word_embeddings": False} | changes


def build_random_llama(
    shape: Mapping[str, Any], tokenizer: Path, folder: Path, device: str = "cpu"
) -> int:
    """Write a Llama of this shape with random bfloat16 weights into `folder`; return their number.

    Its vocabulary is that of the tokenizer in the folder `tokenizer`, which is copied.
    """
    own: Any = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    config = LlamaConfig(
        vocab_size=len(own),
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
        **shape,
    )
    torch.manual_seed(SEED)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    with quiet_transformers():
        model.save_pretrained(folder)
        own.save_pretrained(folder)
    return sum(own.numel() for own in set(model.parameters()))


@dataclass(frozen=True)
class FinishedJob:
    """What a job found, and what it stored."""

    verdict: str
    outcome: SearchOutcome | None
    """None if too few prompts show the behaviour."""
    context: StoringContext
    stored: int
    """Bytes in the artifact store."""

    @property
    def most_pruned(self) -> int:
        """Number of components in the largest trial."""
        trials = self.outcome.trials if self.outcome else ()
        return max((trial.amount for trial in trials), default=0)


def run_whole_job(
    checkpoint: OpenCheckpoint,
    fields: dict[str, Any],
    report: Callable[[str], None],
    around: Around = nullcontext,
) -> FinishedJob:
    """Run a correction in this process and return what it found.

    `fields` are the fields of its spec, with the texts themselves in place of sets; `report` is
    called for every stage.
    """
    map_large_blocks()  # as the child process of a worker does
    sets = Sets()
    described = {
        **sets.file_lists(fields),
        "kind": "correction",
        "model": checkpoint.name,
        "dtype": checkpoint.dtype,
    }
    spec = CorrectionSpec.model_validate(described)
    with ExitStack() as resources, TemporaryDirectory(prefix="excise-store-") as folder:
        context = StoringContext(open_artifact_store(folder), report, around)
        inputs = CorrectionCallInputs(checkpoint, sets, spec, resources)
        found = run_correction(context, inputs)
        stored = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    data = context.outputs.get("search")
    outcome = None if data is None else SearchOutcome.model_validate_json(data)
    return FinishedJob(found.verdict.value, outcome, context, stored)
