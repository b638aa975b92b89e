"""A whole correction of a random model with 8B shape on one GPU: seconds, FLOPs, memory per stage.

    python benchmarks/job_gpu.py --tokenizer FOLDER [--prompts 64] [--granularity weight]

FOLDER holds SmolLM2's tokenizer (its model's folder will do). The model is written to a temporary
folder (15 GiB) and loaded from there in bfloat16; the job runs as in a service, from prompts to
patch, in this process. With 64 prompts, a quarter of the load for which the goals are set, it
should take at most ten minutes; `--prompts 256` is the full load. Without a GPU, or with
`--reduced`, a tiny model of the same kind is used instead.

A fixed share of a random model's responses match the pattern that serves as the undesired
behaviour, so the correction has something to find. Limits on damage are set so high that they have
no effect, and so are gates: random weights have no abilities to lose.

Model FLOPs are counted as in the PaLM paper (arXiv 2204.02311, appendix B): per token and weight of
the layers, two for the forward pass, two for the gradient of activations and, where single weights
are attributed, two for the gradient of weights. Tokens are those that layers process, including
padding. Attention's own products and the head are not counted, so the true utilisation is slightly
higher than the printed one.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer
from whole_job import (
    SEED,
    FinishedJob,
    build_random_llama,
    build_shape,
    read_peak,
    run_whole_job,
    tell_elapsed,
)

from excise.names import Granularity
from workers.library.checkpoint import OpenCheckpoint, open_checkpoint
from workers.models.hooks import OutputHook, hooked
from workers.models.watching import watching_generation

GIB = 1 << 30
GOAL_SECONDS, GOAL_PROMPTS = 900.0, 256
GOAL_DEVICE_GIB, GOAL_HOST_GIB = 70, 64
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bfloat16 rate of the SXM cards, by a part of the device's name."""

EIGHT_BILLION = build_shape("8B (Llama 3.1)", max_position_embeddings=8192)
"""Llama-3-8B's shape; SmolLM2's vocabulary makes it 7.4 billion weights."""
TINY = EIGHT_BILLION | {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.1,  # so that its few weights predict something
}
AMOUNT_SHARES = {
    Granularity.WEIGHT: (5e-5, 1e-4, 1.3e-4),
    Granularity.NEURON: (2e-3, 5e-3, 1e-2),
}
"""Numbers of components to prune, as shares of the model's; for 7 billion weights, the largest is
close to the most that a spec accepts. A job that names its amounts runs all of its rounds."""
TINY_SHARES = (0.05, 0.1, 0.2)
"""The same for a tiny model, whose responses would not change if few components were pruned."""
PROMPT_WORDS, REFERENCE_WORDS, REFERENCE_TEXTS = 16, 60, 220


@dataclass
class Meter:
    """Counts what passes through a model's layers while a stage runs."""

    seconds: float = 0.0
    forward: int = 0
    """Tokens processed by a layer, summed over layers."""
    backward: int = 0
    """The same for gradients."""
    generated: int = 0
    """Number of generated tokens."""
    generating: float = 0.0
    """Seconds spent on generating them."""
    device_bytes: int = 0
    """Peak of allocated device memory, in bytes."""
    host_bytes: int = 0
    """Peak memory of the process, in bytes."""

    def watch_layer(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # noqa: ARG002
        """Count the tokens that a decoder layer processes, and their gradients when computed."""
        states: torch.Tensor = output[0] if isinstance(output, tuple) else output
        tokens = states.shape[:-1].numel()
        self.forward += tokens
        if states.requires_grad:
            states.register_hook(partial(self._count_backward, tokens))

    def hear(self, tokens: int, seconds: float) -> None:
        """Count the tokens of a batch of responses."""
        self.generated += tokens
        self.generating += seconds

    def count_flops(self, layer_weights: int, gradients: int) -> float:
        """Return the model's FLOPs; each layer computes `gradients` gradients, 1 or 2."""
        return 2.0 * layer_weights * (self.forward + gradients * self.backward)

    def _count_backward(self, tokens: int, gradient: torch.Tensor) -> None:  # noqa: ARG002
        self.backward += tokens


@dataclass(frozen=True)
class Meters:
    """One meter per stage of a job."""

    checkpoint: OpenCheckpoint
    device: str
    stages: dict[str, Meter] = field(default_factory=dict)

    @contextmanager
    def around(self, stage: str) -> Iterator[None]:
        """Return a context in which the stage is measured."""
        meter = self.stages.setdefault(stage, Meter())
        loaded = self.checkpoint.loaded
        layers = loaded.model.get_submodule(loaded.family.layers).children()
        _forget_peaks(self.device)
        started = time.perf_counter()
        with (
            hooked(OutputHook(layer, meter.watch_layer) for layer in layers),
            watching_generation(meter.hear),
        ):
            yield
            _synchronise(self.device)
        meter.seconds += time.perf_counter() - started
        meter.device_bytes = max(meter.device_bytes, _read_device_peak(self.device))
        meter.host_bytes = max(meter.host_bytes, read_peak())


def list_words(tokenizer: Path) -> list[str]:
    """Return the vocabulary's plain words, in order."""
    own: Any = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    words = {own.decode([index]).strip() for index in range(len(own))}
    return sorted(word for word in words if word.isascii() and word.isalnum())


def draw_texts(words: Sequence[str], count: int, length: int, draw: Random) -> list[str]:
    """Return texts of random words."""
    return [" ".join(draw.choices(words, k=length)) for _ in range(count)]


def choose_pattern(words: Sequence[str], length: int, draw: Random) -> str:
    """Return the two letters whose share among random responses is closest to one half."""
    pairs = sorted({word[at : at + 2].lower() for word in words for at in range(len(word) - 1)})
    texts = [" ".join(draw.choices(words, k=length)).lower() for _ in range(200)]
    return min(pairs, key=lambda pair: abs(sum(pair in text for text in texts) - len(texts) / 2))


def build_fields(arguments: argparse.Namespace, components: int) -> dict[str, Any]:
    """Return the job's spec, with the texts themselves in place of sets."""
    draw = Random(SEED)
    words = list_words(arguments.tokenizer)
    granularity = Granularity(arguments.granularity)
    shares = TINY_SHARES if arguments.reduced else AMOUNT_SHARES[granularity]
    amounts = [round(share * components) for share in shares]
    behaviour = {
        "kind": "phrase",
        "name": "pattern",
        "prompts": draw_texts(words, arguments.prompts, PROMPT_WORDS, draw),
        "pattern": choose_pattern(words, arguments.new_tokens, draw),
        "decoding": {
            "max_new_tokens": arguments.new_tokens,
            "samples": arguments.samples,
            "temperature": 1.0,
        },
    }
    return {
        "behaviours": [behaviour],
        "reference": draw_texts(words, REFERENCE_TEXTS, REFERENCE_WORDS, draw),
        "attribution": {
            "granularity": granularity.value,
            "reference_tokens": arguments.reference_tokens,
        },
        "search": {"rounds": arguments.rounds, "amounts": amounts},
        "budget": {"perplexity_increase": 1e6, "kl_mean": 1e6},
        "responses": {"max_uniqueness_fall": None, "max_diversity_fall": None},
        "gates": {"abilities": None},
        "protect": None,
        "seed": SEED,
    }


def run(arguments: argparse.Namespace) -> Iterator[str]:
    """Run the job and yield the lines with its figures."""
    granularity = Granularity(arguments.granularity)
    with TemporaryDirectory(prefix="excise-model-") as folder:
        shape = TINY if arguments.reduced else EIGHT_BILLION
        weights = build_random_llama(shape, arguments.tokenizer, Path(folder), arguments.device)
        yield (
            f"{weights / 1e9:.3f}B random weights, bfloat16, {_name_device(arguments.device)}: "
            f"{arguments.prompts} prompts x {arguments.samples} samples x {arguments.new_tokens} "
            f"tokens, {arguments.rounds} rounds, {granularity}s"
        )
        checkpoint = open_checkpoint(folder, dtype="bfloat16", device=arguments.device)
        meters = Meters(checkpoint, arguments.device)
        components = sum(checkpoint.loaded.count_components(granularity).values())
        fields = build_fields(arguments, components)
        started = time.perf_counter()
        found = run_whole_job(checkpoint, fields, tell_elapsed(), meters.around)
        seconds = time.perf_counter() - started
        yield from describe_stages(arguments, meters, checkpoint)
        yield describe_job(arguments, found, meters, seconds)


def describe_stages(
    arguments: argparse.Namespace, meters: Meters, checkpoint: OpenCheckpoint
) -> Iterator[str]:
    """Yield a line for every stage."""
    loaded = checkpoint.loaded
    layer = sum(loaded.count_components(Granularity.WEIGHT).values()) // loaded.layers
    peak = arguments.peak_tflops or find_peak_tflops(arguments.device)
    for stage, meter in meters.stages.items():
        is_weight = stage == "attribute" and arguments.granularity == Granularity.WEIGHT
        flops = meter.count_flops(layer, 2 if is_weight else 1) / meter.seconds / 1e12
        passes = meter.forward / loaded.layers
        line = f"  {stage:10} {meter.seconds:8.1f} s, {passes / meter.seconds:,.0f} tokens/s passed"
        if meter.generating:
            rate = meter.generated / meter.generating
            line += f", {meter.generated} generated at {rate:,.0f} tokens/s"
        line += f", {flops:.3f} TFLOP/s"
        if peak:
            line += f", {flops / peak:.1%} of {peak:.0f}"
        yield f"{line}; peak {_describe_memory(meter.device_bytes, meter.host_bytes)}"


def describe_job(
    arguments: argparse.Namespace, found: FinishedJob, meters: Meters, seconds: float
) -> str:
    """Return the line about the whole job, including its goals."""
    if found.outcome is None:
        raise SystemExit("too few prompts bring the pattern out; give more with --prompts")
    pools = [event.message for event in found.context.events if event.type == "search.pool"]
    patch = len(found.context.files.get("patch.safetensors", b""))
    at_most = seconds * GOAL_PROMPTS / arguments.prompts
    last = Meter(device_bytes=_read_device_peak(arguments.device), host_bytes=read_peak())
    peaks = [*meters.stages.values(), last]
    device, host = (
        max(getattr(own, what) for own in peaks) for what in ("device_bytes", "host_bytes")
    )
    trials = len(found.outcome.trials)
    return "\n".join(
        [
            f"  {'all':10} {seconds:8.1f} s; for {GOAL_PROMPTS} prompts at most {at_most:.0f} s, "
            f"did all of it grow with them (goal {GOAL_SECONDS:.0f} s for 256 x 5 x 30 and 3 "
            "rounds on one GPU)",
            f"  peak {_describe_memory(device, host)} (goals {GOAL_DEVICE_GIB} and "
            f"{GOAL_HOST_GIB} GiB)",
            f"  {trials} trials, {found.most_pruned} pruned at most, patch of {patch} bytes, "
            f"{found.stored} bytes stored; {found.verdict}; {'; '.join(pools) or 'no pool'}",
        ]
    )


def find_peak_tflops(device: str) -> float | None:
    """Return the device's dense bfloat16 rate, if its name is known."""
    name = _name_device(device)
    return next((rate for part, rate in PEAK_TFLOPS.items() if part in name), None)


def _describe_memory(device: int, host: int) -> str:
    return f"{device / GIB:.1f} GiB on the device, {host / GIB:.1f} GiB in main memory"


def _name_device(device: str) -> str:
    return torch.cuda.get_device_name(device) if _is_cuda(device) else device


def _is_cuda(device: str) -> bool:
    return device.startswith("cuda")


def _synchronise(device: str) -> None:
    if _is_cuda(device):
        torch.cuda.synchronize(device)


def _forget_peaks(device: str) -> None:
    """Reset the peaks, where that is possible."""
    if _is_cuda(device):
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _read_device_peak(device: str) -> int:
    return torch.cuda.max_memory_allocated(device) if _is_cuda(device) else 0


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; defaults are a quarter of the goals' load, or tiny without a GPU."""
    has_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True, help="SmolLM2's folder")
    parser.add_argument("--device", default="cuda" if has_gpu else "cpu")
    parser.add_argument("--reduced", action="store_true", default=not has_gpu)
    parser.add_argument("--granularity", default="weight", choices=[*map(str, AMOUNT_SHARES)])
    parser.add_argument("--peak-tflops", type=float)
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--samples", type=int, default=5)
    parser.add_argument("--new-tokens", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reference-tokens", type=int)
    found = parser.parse_args(words)
    usual = (16, 8, 256) if found.reduced else (64, 30, 8192)
    for name, value in zip(("prompts", "new_tokens", "reference_tokens"), usual, strict=True):
        if getattr(found, name) is None:
            setattr(found, name, value)
    return found


def main(words: Sequence[str] | None = None) -> None:
    """Print a line for the model, one per stage, and those for the whole job."""
    for line in run(parse_arguments(words)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
