"""Attribution of an 8B-shaped Llama with random weights: seconds and FLOP utilisation.

    python benchmarks/attribution_gpu.py [--device cuda] [--samples 128] [--tokens 2048]

bfloat16 weights, float32 sums, AttnLRP, target: the largest logit. Neuron-level (all three
statistics) and weight-level (the mean). Goals on one H200: 45 s and 75 s. Model FLOPs are counted
as in the PaLM paper (arXiv 2204.02311, appendix B): two a weight and token for the forward pass,
two for the gradient of activations, two for that of weights, and those of attention's two
products; causality is not made use of. `--layers`, `--hidden` and so on make it small enough for
a CPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from excise.names import Attributor, Granularity
from workers.attribution.attribution import Attribution, Pass
from workers.attribution.attributors import sum_relevance
from workers.attribution.targets import Target
from workers.domain import TokenSequence
from workers.families import find_family, find_linear_modules, linear_weight
from workers.models.loaded import LoadedModel

GOALS_SECONDS = {Granularity.NEURON: 45.0, Granularity.WEIGHT: 75.0}
PASSES = {Granularity.NEURON: 2, Granularity.WEIGHT: 3}
"""Matrix products a linear layer: forward, gradient of activations, gradient of weights."""
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}
"""Dense bfloat16 of the SXM cards, by a part of the device's name."""


def build_model(arguments: argparse.Namespace) -> nn.Module:
    """A Llama of the asked shape with random weights, where and as it will run."""
    config = LlamaConfig(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.hidden,
        intermediate_size=arguments.intermediate,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        num_key_value_heads=arguments.key_value_heads,
        max_position_embeddings=arguments.tokens,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, arguments.dtype))
    try:
        with torch.device(arguments.device):
            model: nn.Module = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def draw_samples(count: int, tokens: int, vocabulary: int) -> list[TokenSequence]:
    """Random token sequences of equal length: no padding, so that every token counts."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (count, tokens), generator=generator)
    return [TokenSequence(tuple(row)) for row in ids.tolist()]


def count_flops(model: nn.Module, granularity: Granularity, samples: int, tokens: int) -> float:
    """FLOPs of the model itself over all samples; the head runs forwards only."""
    config = model.config
    assert isinstance(config, LlamaConfig)
    linear = find_linear_modules(model, find_family(model)).values()
    weights = sum(linear_weight(module).numel() for module in linear)
    head = config.vocab_size * config.hidden_size
    # Attention has two products of (token, token) by head dimension, each with two gradients.
    attention = 3 * config.num_hidden_layers * 4 * tokens * config.hidden_size
    return samples * tokens * (2.0 * PASSES[granularity] * weights + 2.0 * head + attention)


def measure(model: nn.Module, granularity: Granularity, arguments: argparse.Namespace) -> float:
    """Seconds of one attribution over all samples, the device's queue included."""
    samples = draw_samples(arguments.samples, arguments.tokens, arguments.vocabulary)
    # One batch first: kernels are chosen and memory is reserved.
    for part in (samples[: max(1, arguments.batch_tokens // arguments.tokens)], samples):
        _synchronise(arguments.device)
        start = time.perf_counter()
        sum_relevance(
            LoadedModel(model, None, find_family(model), 0),
            Attribution(
                Attributor.ATTNLRP,
                granularity,
                Target.TOP_LOGIT,
            ),
            part,
            Pass(batch_tokens=arguments.batch_tokens),
        )
        _synchronise(arguments.device)
        seconds = time.perf_counter() - start
    return seconds


def report(model: nn.Module, granularity: Granularity, arguments: argparse.Namespace) -> str:
    """One line of figures."""
    seconds = measure(model, granularity, arguments)
    tokens = arguments.samples * arguments.tokens
    flops = count_flops(model, granularity, arguments.samples, arguments.tokens) / seconds
    line = (
        f"{granularity}-level: {seconds:.2f} s for {arguments.samples} x {arguments.tokens} tokens "
        f"(goal {GOALS_SECONDS[granularity]:.0f} s for 8B on one H200), {tokens / seconds:,.0f} "
        f"tokens/s, {flops / 1e12:.3f} TFLOP/s"
    )
    peak = arguments.peak_tflops or find_peak_tflops(arguments.device)
    if peak:
        line += f", {flops / 1e12 / peak:.1%} of {peak:.0f}"
    if arguments.device.startswith("cuda"):
        line += f", peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    return line


def find_peak_tflops(device: str) -> float | None:
    """The device's dense bfloat16 rate, where its name is known."""
    if not device.startswith("cuda"):
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for part, rate in PEAK_TFLOPS.items() if part in name), None)


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def parse_arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The shape of Llama-3-8B and the load of the goal, unless said otherwise."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--peak-tflops", type=float)
    for name, value in (
        ("samples", 128),
        ("tokens", 2048),
        ("batch-tokens", 8192),
        ("layers", 32),
        ("hidden", 4096),
        ("intermediate", 14336),
        ("heads", 32),
        ("key-value-heads", 8),
        ("vocabulary", 128_256),
    ):
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Print a line for the model and one for each granularity."""
    arguments = parse_arguments(words)
    model = build_model(arguments)
    weights = sum(parameter.numel() for parameter in model.parameters())
    print(f"{weights / 1e9:.3f}B weights, {arguments.dtype}, {arguments.device}", flush=True)
    for granularity in GOALS_SECONDS:
        print(report(model, granularity, arguments), flush=True)


if __name__ == "__main__":
    main()
