"""What corrections of models of several sizes need, according to `excise estimate`.

    python benchmarks/estimates.py

Prints a Markdown table of peak device memory and minutes, for single weights and neurons in float32
and bfloat16, of 256 prompts × 5 samples × 30 tokens and three rounds on an H100. No figure is
measured: the constants behind them were fitted to jobs on SmolLM2-135M.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from excise.estimates.estimate import Question, estimate
from excise.estimates.machine import Machine
from excise.estimates.prompts import JobSets, SetSize
from excise.estimates.shape import ModelShape
from excise.specs import CorrectionSpec

MODELS: Mapping[str, Mapping[str, Any]] = {
    "1.1B (TinyLlama)": {
        "num_hidden_layers": 22,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "vocab_size": 32000,
    },
    "8B (Llama 3.1)": {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "32B (Qwen2.5)": {
        "num_hidden_layers": 64,
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "vocab_size": 152064,
    },
    "70B (Llama 3.1)": {
        "num_hidden_layers": 80,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
}
"""Shapes according to the published config.json."""

H100 = Machine(
    device="NVIDIA H100",
    device_bytes=80 * 2**30,
    host_bytes=512 * 2**30,
    flops=6e13,
    low_precision_flops=6e14,
    bytes_per_second=3.3e12,
)
"""Memory and bandwidth according to the data sheet; two thirds of its dense bfloat16 peak."""

PROMPTS = SetSize(count=256, tokens=256 * 20)


def build_spec(granularity: str, dtype: str) -> CorrectionSpec:
    """Return the job of scale.md's goal for one GPU."""
    return CorrectionSpec.model_validate(
        {
            "kind": "correction",
            "model": "m",
            "dtype": dtype,
            "behaviours": [{"name": "toxicity", "kind": "toxicity", "prompts": "p"}],
            "reference": "r",
            "attribution": {"granularity": granularity},
            "search": {"rounds": 3},
        }
    )


def main() -> None:
    """Print the table."""
    kinds = [(g, d) for g in ("weight", "neuron") for d in ("float32", "bfloat16")]
    print("| model | " + " | ".join(f"{g}s, {d}" for g, d in kinds) + " |")
    print("|---" * (1 + len(kinds)) + "|")
    for name, config in MODELS.items():
        shape = ModelShape.of({"architectures": ["LlamaForCausalLM"], **config})
        cells = []
        for granularity, dtype in kinds:
            spec = build_spec(granularity, dtype)
            found = estimate(Question(spec, shape, JobSets([PROMPTS])), H100)
            size = f"{found.device_bytes / 2**30:.0f} GiB"
            cells.append(f"{size}, {found.minutes:.1f} min" if found.fits else f"{size}: too large")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
