"""Weight-level attribution compared with the usual implementation, on the same samples.

    python benchmarks/attribution_usual_way.py --model FOLDER [--samples 64] [--tokens 256]

Published reproductions usually process one sample at a time: a backward pass through the logits
into every parameter's `.grad`, and then |W · grad| of every linear weight is copied to the CPU and
added up there. Both implementations follow the same AttnLRP rules and the same target. Their sums
of signed W · grad over samples have the same definition, so they must agree; the usual sum of
W · grad| per sample is not a mean over tokens, and is only timed. Goal: 10 times faster at 64
samples x 256 tokens.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from attribution_cost import draw_samples
from torch import Tensor

from excise.names import Attributor, Granularity
from workers.attribution.attribution import Attribution, Pass
from workers.attribution.attributors import sum_relevance
from workers.attribution.composites import ATTN_LRP, attribution_rules
from workers.attribution.targets import Target
from workers.domain import TokenSequence
from workers.families import find_linear_modules
from workers.models.checkpoints import load_checkpoint
from workers.models.loaded import LoadedModel


def attribute_the_usual_way(
    loaded: LoadedModel, samples: list[TokenSequence]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the sums over samples of W · grad and of |W · grad|, per linear module."""
    model = loaded.model
    linear = find_linear_modules(model, loaded.family)
    signed = {name: torch.zeros(module.weight.shape) for name, module in linear.items()}
    absolute = {name: torch.zeros(module.weight.shape) for name, module in linear.items()}
    with attribution_rules(loaded, ATTN_LRP):
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        for sample in samples:
            model.zero_grad(set_to_none=True)
            ids = torch.tensor([sample.token_ids], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            logits.max(dim=-1).values.sum().backward()
            for name, module in linear.items():
                relevance = (module.weight * module.weight.grad).detach().cpu().float()
                signed[name] += relevance
                absolute[name] += relevance.abs()
        model.zero_grad(set_to_none=True)
    return signed, absolute


def find_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest difference in any module, relative to the module's largest value."""
    return max(
        float((found[name] - value).abs().max() / value.abs().max())
        for name, value in expected.items()
    )


def main() -> None:
    """Time both, compare their sums, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--batch-tokens", type=int, default=1024)
    arguments = parser.parse_args()
    loaded = load_checkpoint(arguments.model)
    samples = draw_samples(arguments.samples, arguments.tokens, loaded.model.config.vocab_size)
    attribute_the_usual_way(loaded, samples[:1])  # warm-up
    start = time.perf_counter()
    signed, _ = attribute_the_usual_way(loaded, samples)
    usual = time.perf_counter() - start
    seconds = {}
    for granularity in (Granularity.WEIGHT, Granularity.NEURON):
        start = time.perf_counter()
        sums = sum_relevance(
            loaded,
            Attribution(Attributor.ATTNLRP, granularity, Target.TOP_LOGIT),
            samples,
            Pass(batch_tokens=arguments.batch_tokens),
        )
        seconds[granularity] = time.perf_counter() - start
        if granularity is Granularity.WEIGHT:
            difference = find_difference(dict(sums.sums), signed)
    print(f"{arguments.samples} samples x {arguments.tokens} tokens, {arguments.model.name}")
    print(f"usual way      {usual:8.2f} s")
    for granularity, own in seconds.items():
        print(f"{granularity + '-level':14} {own:8.2f} s, {usual / own:.2f} times faster, goal 10")
    print(f"largest difference of W * grad, relative to the module's largest: {difference:.2e}")


if __name__ == "__main__":
    main()
