"""The benchmark of a whole job on a GPU, in its reduced form on the CPU: its lines, its FLOPs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType

import pytest
import torch

from tests.tiny import as_loaded, build_tiny_model, build_tiny_tokenizer
from workers.models.hooks import OutputHook, hooked


@pytest.fixture(scope="module")
def job_gpu(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("job_gpu")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_reduced_job_goes_from_prompts_to_patch_and_says_what_each_stage_took(
    job_gpu: ModuleType, tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--tokenizer", str(tokenizer), "--device", "cpu", "--reduced", "--peak-tflops", "1"]
    job_gpu.main(words)
    first, *stages, whole, memory, found = capsys.readouterr().out.splitlines()
    said = "B random weights, bfloat16, cpu: 16 prompts x 5 samples x 8 tokens, 3 rounds, weights"
    assert first.endswith(said)
    names = [line.split()[0] for line in stages]
    assert names == ["prepare", "attribute", "search", "validate", "package"]
    for name, line in zip(names, stages, strict=True):
        assert re.search(r" s, [\d,]+ tokens/s passed.* TFLOP/s, [\d.]+% of 1; peak ", line)
        assert ("generated at" in line) is (name in ("prepare", "search", "validate"))
    assert re.search(r"for 256 prompts at most \d+ s.*goal 900 s", whole)
    assert memory.endswith("(goals 70 and 64 GiB)")
    patch = re.search(
        r"3 trials, \d+ pruned at most, patch of (\d+) bytes, \d+ bytes stored", found
    )
    assert patch is not None
    assert int(patch[1]) > 0
    assert "weights to choose from, weighed together by" in found


def test_too_few_responses_with_the_pattern_are_said(
    job_gpu: ModuleType, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_gpu, "choose_pattern", lambda *args: "nothing says this")
    with pytest.raises(SystemExit, match="give more with --prompts"):
        job_gpu.main(["--tokenizer", str(tokenizer), "--device", "cpu", "--reduced"])


def test_passes_through_every_layer_are_counted(job_gpu: ModuleType) -> None:
    loaded, meter = as_loaded(build_tiny_model()), job_gpu.Meter()
    layers = loaded.model.model.layers
    with hooked(OutputHook(layer, meter.watch_layer) for layer in layers):
        states = loaded.run(torch.tensor([[1, 2, 3], [4, 5, 6]]))
        assert (meter.forward, meter.backward) == (12, 0)
        states.sum().backward(retain_graph=True)
        states.sum().backward()
        with torch.no_grad():
            loaded.run(torch.tensor([[7]]))
    assert (meter.forward, meter.backward) == (14, 24)
    assert meter.count_flops(10, 1) == 2 * 10 * (14 + 24)
    assert meter.count_flops(10, 2) == 2 * 10 * (14 + 2 * 24)


def test_the_pattern_is_in_about_half_of_the_responses(job_gpu: ModuleType) -> None:
    words = ["ab", "bc", "cd", "de", "ef", "fg"]
    pattern = job_gpu.choose_pattern(words, 4, Random(1))
    draw = Random(2)
    texts = [" ".join(draw.choices(words, k=4)) for _ in range(300)]
    assert 0.35 < sum(pattern in text for text in texts) / 300 < 0.65


def test_the_model_has_the_shape_of_llama_3_8b(job_gpu: ModuleType) -> None:
    shape = job_gpu.EIGHT_BILLION
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    groups = shape["num_attention_heads"] // shape["num_key_value_heads"]
    layer = hidden * (2 * hidden + 2 * hidden // groups) + 3 * hidden * inner
    # Its own vocabulary has 128,256 tokens.
    total = shape["num_hidden_layers"] * layer + 2 * 128_256 * hidden
    assert total / 1e9 == pytest.approx(8.03, abs=0.01)


@pytest.mark.parametrize(("name", "rate"), [("NVIDIA H200", 989.0), ("cpu", None)])
def test_the_rate_of_known_devices_is_known(
    name: str, rate: float | None, job_gpu: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_gpu, "_name_device", lambda device: name)
    assert job_gpu.find_peak_tflops("cuda") == rate
