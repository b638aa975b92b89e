"""The GPU benchmark, run tiny on the CPU: its lines, and the FLOPs it counts."""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from excise.names import Granularity

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "attribution_gpu.py"
SHAPE = {
    "samples": 3,
    "tokens": 16,
    "batch-tokens": 32,
    "layers": 2,
    "hidden": 32,
    "intermediate": 48,
    "heads": 4,
    "key-value-heads": 2,
    "vocabulary": 101,
}
TINY = ["--device=cpu", *(f"--{name}={value}" for name, value in SHAPE.items())]


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("attribution_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_it_says_how_fast_each_granularity_is(benchmark: ModuleType, capsys, dtype: str) -> None:
    benchmark.main([*TINY, "--dtype", dtype, "--peak-tflops", "1"])
    first, neuron, weight = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"0\.000B weights, {dtype}, cpu", first)
    for line, name in ((neuron, "neuron"), (weight, "weight")):
        assert line.startswith(f"{name}-level: ")
        assert "for 3 x 16 tokens" in line
        assert re.search(r"[\d,]+ tokens/s, [\d.]+ TFLOP/s, [\d.]+% of 1$", line)


def test_the_model_s_flops_are_counted(benchmark: ModuleType) -> None:
    arguments: argparse.Namespace = benchmark.parse_arguments(TINY)
    model = benchmark.build_model(arguments)
    # q, k, v, o (two groups of keys and values), gate, up, down, in two layers.
    weights = 2 * (32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 32 * 48)
    rest = 2 * 101 * 32 + 3 * 2 * 4 * 16 * 32
    found = benchmark.count_flops(model, Granularity.NEURON, 3, 16)
    assert found == 3 * 16 * (4 * weights + rest)
    assert benchmark.count_flops(model, Granularity.WEIGHT, 3, 16) == 48 * (6 * weights + rest)


def test_the_default_shape_is_that_of_llama_3_8b(benchmark: ModuleType) -> None:
    arguments = benchmark.parse_arguments([])
    layer = arguments.hidden * (2 * arguments.hidden + 2 * arguments.hidden // 4)
    layer += 3 * arguments.hidden * arguments.intermediate
    both_embeddings = 2 * arguments.vocabulary * arguments.hidden
    total = arguments.layers * layer + both_embeddings
    assert total / 1e9 == pytest.approx(8.03, abs=0.01)
    assert (arguments.samples, arguments.tokens) == (128, 2048)
