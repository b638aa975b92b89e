"""What attribution costs compared with plain passes, and its peak memory.

    python benchmarks/attribution_cost.py --model FOLDER [--samples 4] [--tokens 256] [--rounds 5]

Three comparisons of time: neuron-level attribution (AttnLRP, all three statistics) with a forward
and an activation-only backward pass; weight-level attribution (AttnLRP, the mean) with a forward
and a full backward pass over the same weights; the same weights in segments of layers with a single
pass. All variants use the same batch and start from the same gradient at the last hidden states;
they run in turn, and their medians are compared. Goals: 1.10, 1.15 and 4/3, because segments cost
one more forward pass.

Peak memory is measured in a child process each, for one batch and for several, and compared with a
plain pass over one batch (weights and activations). Goal: at most half of the weights' size above
it, and independent of the number of samples. Sums for single weights are necessarily as large as
the weights. There are three figures: the size of live tensors; the resident set if every tensor has
its own mapping, which is released as soon as the tensor is freed; and the resident set with glibc's
heap, which keeps the holes that freed tensors leave (faster, because no page is requested twice).
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path
from statistics import median

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from excise.names import Attributor, Granularity, Statistic
from workers.attribution.attribution import Attribution, Pass
from workers.attribution.attributors import sum_relevance
from workers.attribution.segments import Reading, cut_layers, sum_in_segments
from workers.attribution.sums import ALL_STATISTICS
from workers.attribution.targets import Target, compute_directions, find_target_positions
from workers.domain import TokenSequence
from workers.families import find_linear_modules, find_mlp_outputs
from workers.models.batches import TokenBatch, build_batches
from workers.models.checkpoints import load_checkpoint
from workers.models.loaded import LoadedModel

MMAP_THRESHOLD = "MALLOC_MMAP_THRESHOLD_"
"""glibc: allocations of at least so many bytes get their own mapping; adapts to use if unset."""
SEGMENTS_GOAL = 1.34
"""Time of attribution in segments ÷ time of a single pass: one more forward pass."""
STATISTICS = {
    Granularity.NEURON: ALL_STATISTICS,
    Granularity.HEAD: ALL_STATISTICS,
    Granularity.WEIGHT: frozenset({Statistic.MEAN}),
}


def draw_samples(count: int, tokens: int, vocabulary: int) -> list[TokenSequence]:
    """Return random token sequences of equal length, so that no token is padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (count, tokens), generator=generator)
    return [TokenSequence(tuple(row)) for row in ids.tolist()]


def run_plain(loaded: LoadedModel, batches: list[TokenBatch], trained: list[nn.Parameter]) -> None:
    """Run a forward and a backward pass per batch, with gradients for `trained`.

    It starts from the same target as attribution. Gradients accumulate over the batches, as in
    training. Without any parameters, only activations get gradients, from the lowest MLP's
    neurons upwards.
    """
    for parameter in loaded.model.parameters():
        parameter.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    handle = None
    if not trained:
        lowest = next(iter(find_mlp_outputs(loaded.model, loaded.family).values()))
        handle = lowest.register_forward_pre_hook(
            lambda _, args: (args[0].detach().requires_grad_(),)
        )
    head = loaded.head.detach()
    for batch in batches:
        hidden = loaded.run(batch.token_ids)
        positions = find_target_positions(batch)
        states = hidden[positions]
        directions = compute_directions(states.detach(), batch, positions, head, Target.TOP_LOGIT)
        torch.autograd.backward([states], [directions])
    if handle is not None:
        handle.remove()
    for parameter in trained:
        parameter.grad = None


def run_attribution(
    loaded: LoadedModel, granularity: Granularity, samples: list[TokenSequence], tokens: int
) -> None:
    """Run the product's own call on the same batch."""
    sum_relevance(
        loaded,
        Attribution(
            Attributor.ATTNLRP, granularity, Target.TOP_LOGIT, statistics=STATISTICS[granularity]
        ),
        samples,
        Pass(batch_tokens=tokens),
    )


def run_segments(
    loaded: LoadedModel, samples: list[TokenSequence], tokens: int, segments: int
) -> None:
    """Attribute the weights of one segment of layers at a time; the sums are discarded."""
    asked = Attribution(
        Attributor.ATTNLRP, Granularity.WEIGHT, Target.TOP_LOGIT, STATISTICS[Granularity.WEIGHT]
    )
    run = Pass(batch_tokens=tokens)
    cut = cut_layers(loaded.layers, segments)
    for _ in sum_in_segments(loaded, [asked], [Reading(samples, (0,))], cut, run):
        pass


@dataclass
class Timing:
    """Seconds of one variant, per round."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    """Processor seconds of all threads of this process, which other load on the machine does not
    affect."""


def time_variants(variants: dict[str, Callable[[], None]], rounds: int) -> dict[str, Timing]:
    """Return the seconds of each variant; the variants run in turn, after one warm-up round."""
    timings = {name: Timing() for name in variants}
    for round_number in range(rounds + 1):
        for name, variant in variants.items():
            wall, processor = time.perf_counter(), time.process_time()
            variant()
            if round_number:
                timings[name].wall.append(time.perf_counter() - wall)
                timings[name].processor.append(time.process_time() - processor)
    return timings


def measure_cost(arguments: argparse.Namespace) -> None:
    """Print the ratios of neuron- and weight-level attribution to their plain passes."""
    loaded = load_checkpoint(arguments.model)
    count = arguments.samples * arguments.batches
    samples = draw_samples(count, arguments.tokens, loaded.model.config.vocab_size)
    tokens = arguments.samples * arguments.tokens
    batches = list(build_batches(samples, tokens, 0))
    linear = find_linear_modules(loaded.model, loaded.family)
    weights = [module.get_parameter("weight") for module in linear.values()]
    variants: dict[str, Callable[[], None]] = {
        "activation-only backward": lambda: run_plain(loaded, batches, []),
        "neuron-level": lambda: run_attribution(loaded, Granularity.NEURON, samples, tokens),
        "full backward": lambda: run_plain(loaded, batches, weights),
        "weight-level": lambda: run_attribution(loaded, Granularity.WEIGHT, samples, tokens),
    }
    segments = {f"weights, {count} segments": count for count in (1, 5, loaded.layers)}
    for name, count in segments.items():
        variants[name] = partial(run_segments, loaded, samples, tokens, count)
    timings = time_variants(variants, arguments.rounds)
    for name, timing in timings.items():
        wall, processor = median(timing.wall), median(timing.processor)
        print(f"{name:26} median {wall:7.3f} s, {processor:7.3f} s of processor", flush=True)
    for name, plain, goal in (
        ("neuron-level", "activation-only backward", 1.10),
        ("weight-level", "full backward", 1.15),
        *((name, "weight-level", SEGMENTS_GOAL) for name in segments),
    ):
        own, base = timings[name], timings[plain]
        wall = median(own.wall) / median(base.wall)
        processor = median(own.processor) / median(base.processor)
        print(f"{name} / {plain}: {wall:.3f} by the clock, {processor:.3f} of processor ", end="")
        print(f"time, goal {goal:.2f}", flush=True)


def measure_peak(arguments: argparse.Namespace) -> None:
    """Print this process's peaks: after imports, in a plain pass over one batch, in attribution.

    The plain pass holds the weights and one batch's activations; whatever attribution needs above
    that is its own.
    """
    imported = read_peak()
    granularity = Granularity(arguments.peak)
    loaded = load_checkpoint(arguments.model)
    parameters = set(loaded.model.parameters())
    size = sum(value.numel() * value.element_size() for value in parameters) / 2**20
    count = arguments.samples * arguments.batches
    samples = draw_samples(count, arguments.tokens, loaded.model.config.vocab_size)
    tokens = arguments.samples * arguments.tokens
    batches = list(build_batches(samples, tokens, 0))

    def pass_plainly() -> None:
        run_plain(loaded, batches[:1], [])

    def attribute() -> None:
        run_attribution(loaded, granularity, samples, tokens)

    pass_plainly()
    plain = read_peak() - imported
    attribute()
    peak = read_peak() - imported
    figures = [("resident, a mapping each", plain, peak)]
    if MMAP_THRESHOLD not in os.environ:
        # Live tensors do not depend on the setting. Measured last, because the profiler needs
        # memory, too.
        live = [size + measure_live(work) for work in (pass_plainly, attribute)]
        figures = [("live tensors", *live), ("resident, heap", plain, peak)]
    print(
        f"{granularity}-level, {count} samples x {arguments.tokens} tokens in {arguments.batches} "
        f"batches, weights {size:.0f} MiB"
    )
    for what, low, high in figures:
        print(
            f"  {what:24} plain pass {low:.0f} MiB, attribution {high:.0f} MiB; above the plain "
            f"pass {(high - low) / size:.2f} x the weights",
            flush=True,
        )


def measure_live(work: Callable[[], None]) -> float:
    """Return the largest size of tensors made by `work` that are alive at one time, in MiB."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        work()
    assert profiler.profiler is not None
    events = profiler.profiler.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(accumulate(event.nbytes() for event in changes)) / 2**20


def read_peak() -> float:
    """Return the peak memory of this process, in MiB.

    Without /proc it is `ru_maxrss`, which on Linux an executed child inherits from its parent, so
    it may be the parent's peak.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def main() -> None:
    """Print the ratios, then peak memory measured in child processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--peak", choices=[value.value for value in Granularity])
    parser.add_argument("--no-memory", action="store_true")
    arguments = parser.parse_args()
    if arguments.peak:
        measure_peak(arguments)
        return
    measure_cost(arguments)
    if arguments.no_memory:
        return
    for granularity, batches in (("neuron", "1"), ("neuron", "4"), ("weight", "1")):
        own = ["--peak", granularity, "--batches", batches, "--model", str(arguments.model)]
        sizes = ["--samples", str(arguments.samples), "--tokens", str(arguments.tokens)]
        command = [sys.executable, __file__, *own, *sizes]
        for environment in (os.environ, {**os.environ, MMAP_THRESHOLD: "131072"}):
            subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
