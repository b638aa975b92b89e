"""What attribution costs over the plain passes it is made of, and the memory it peaks at.

    python benchmarks/attribution_cost.py --model FOLDER [--samples 4] [--tokens 256] [--rounds 5]

Neuron-level attribution (AttnLRP, all three statistics) against a forward and an
activation-only backward pass; weight-level (AttnLRP, the mean) against a forward and a full
backward pass over the same weights. All four see the same batch and start from the same
gradient at the last hidden states; they take turns, and medians are compared. Goals: 1.10 and
1.15. Peak memory (of a child process each, over the process with the model loaded) for one and
for several batches; goal 1.5 x the weights plus one batch's activations, flat in the samples.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import nn

from workers.attribution.attributors import Attributor, sum_relevance
from workers.attribution.sums import ALL_STATISTICS, Statistic
from workers.attribution.targets import Target, compute_directions, find_target_positions
from workers.batches import TokenBatch, build_batches
from workers.checkpoints import load_checkpoint
from workers.domain import Granularity, TokenSequence
from workers.families import find_family, find_linear_modules, find_mlp_outputs, head_weight

STATISTICS = {
    Granularity.NEURON: ALL_STATISTICS,
    Granularity.HEAD: ALL_STATISTICS,
    Granularity.WEIGHT: frozenset({Statistic.MEAN}),
}


def draw_samples(count: int, tokens: int, vocabulary: int) -> list[TokenSequence]:
    """Random token sequences of equal length: no padding, so that every token counts."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (count, tokens), generator=generator)
    return [TokenSequence(tuple(row)) for row in ids.tolist()]


def run_plain(model: nn.Module, batch: TokenBatch, trained: list[nn.Parameter]) -> None:
    """One forward and one backward pass with gradients for `trained`, from the same target.

    Without any, activations alone get gradients, from the lowest MLP's neurons on.
    """
    family = find_family(model)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)
    handle = None
    if not trained:
        lowest = next(iter(find_mlp_outputs(model, family).values()))
        handle = lowest.register_forward_pre_hook(
            lambda _, args: (args[0].detach().requires_grad_(),)
        )
    backbone = model.get_submodule(family.backbone)
    hidden = backbone(input_ids=batch.token_ids, use_cache=False).last_hidden_state
    positions = find_target_positions(batch)
    states = hidden[positions]
    head = head_weight(model, family).detach()
    directions = compute_directions(states.detach(), batch, positions, head, Target.TOP_LOGIT)
    torch.autograd.backward([states], [directions])
    if handle is not None:
        handle.remove()
    for parameter in trained:
        parameter.grad = None


def run_attribution(
    model: nn.Module, granularity: Granularity, samples: list[TokenSequence], tokens: int
) -> None:
    """The same batch through the product's own call."""
    sum_relevance(
        model,
        find_family(model),
        Attributor.ATTNLRP,
        granularity,
        samples,
        Target.TOP_LOGIT,
        0,
        batch_tokens=tokens,
        statistics=STATISTICS[granularity],
    )


def time_variants(variants: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Return seconds of each variant in every round; they take turns, one round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for round_number in range(rounds + 1):
        for name, variant in variants.items():
            start = time.perf_counter()
            variant()
            if round_number:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def measure_cost(arguments: argparse.Namespace) -> None:
    """Print the ratios of neuron- and weight-level attribution to their plain passes."""
    model = load_checkpoint(arguments.model).model
    samples = draw_samples(arguments.samples, arguments.tokens, model.config.vocab_size)
    tokens = arguments.samples * arguments.tokens
    (batch,) = build_batches(samples, tokens, 0)
    linear = find_linear_modules(model, find_family(model))
    weights = [module.get_parameter("weight") for module in linear.values()]
    variants: dict[str, Callable[[], None]] = {
        "activation-only backward": lambda: run_plain(model, batch, []),
        "neuron-level": lambda: run_attribution(model, Granularity.NEURON, samples, tokens),
        "full backward": lambda: run_plain(model, batch, weights),
        "weight-level": lambda: run_attribution(model, Granularity.WEIGHT, samples, tokens),
    }
    seconds = time_variants(variants, arguments.rounds)
    for name, values in seconds.items():
        print(f"{name:26} median {median(values):7.3f} s, fastest {min(values):7.3f} s")
    for name, plain, goal in (
        ("neuron-level", "activation-only backward", 1.10),
        ("weight-level", "full backward", 1.15),
    ):
        middle = median(seconds[name]) / median(seconds[plain])
        fastest = min(seconds[name]) / min(seconds[plain])
        print(f"{name} / {plain}: {middle:.3f} (of the fastest: {fastest:.3f}), goal {goal}")


def measure_peak(arguments: argparse.Namespace) -> None:
    """Print the peak memory of one attribution in this process, over the size of the weights."""
    granularity = Granularity(arguments.peak)
    model = load_checkpoint(arguments.model).model
    size = sum(value.numel() * value.element_size() for value in set(model.parameters()))
    loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    count = arguments.samples * arguments.batches
    samples = draw_samples(count, arguments.tokens, model.config.vocab_size)
    run_attribution(model, granularity, samples, arguments.samples * arguments.tokens)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"{granularity} {count} samples x {arguments.tokens} tokens, {arguments.batches} batches: "
        f"weights {size / 2**20:.0f} MiB, peak {peak / 2**20:.0f} MiB = {peak / size:.2f} x, "
        f"{(peak - loaded) / size:.2f} x above the process with the model loaded"
    )


def main() -> None:
    """Print the ratios, then peak memory from processes of their own."""
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
        subprocess.run([sys.executable, __file__, *own, *sizes], check=True)


if __name__ == "__main__":
    main()
