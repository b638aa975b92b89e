"""A checkpoint spread over all CUDA devices does what it does on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import nn

from excise.names import Attributor, Calibration, Granularity
from tests.tiny import as_loaded, build_tiny_model, draw_samples, save_tiny_checkpoint
from workers.attribution.attribution import Attribution
from workers.attribution.attributors import compute_relevance
from workers.attribution.targets import Target
from workers.compression.compress import compress
from workers.compression.plan import CompressionPlan, RowShare
from workers.families import LLAMA, find_mlp_outputs
from workers.measuring.text_damage import ReferenceText
from workers.models.checkpoints import load_checkpoint
from workers.models.devices import BALANCED
from workers.models.generation import generate_responses
from workers.pruning.means import compute_mean_inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two CUDA devices"),
]

SAMPLES = draw_samples([(40, 8)] * 6 + [(17, 3), (60, 0)])


@dataclass(frozen=True)
class Pair:
    """The same checkpoint twice."""

    near: nn.Module
    """On the CPU."""
    spread: nn.Module


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    model = build_tiny_model(
        hidden_size=512,
        intermediate_size=2048,
        max_position_embeddings=1024,
        initializer_range=0.05,
    )
    folder = save_tiny_checkpoint(tmp_path / "base", model)
    return Pair(load_checkpoint(folder).model, load_checkpoint(folder, device=BALANCED).model)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    distance = torch.linalg.vector_norm(found.cpu() - expected)
    assert float(distance / torch.linalg.vector_norm(expected)) < 1e-3


def test_both_ends_are_on_the_first_device(pair: Pair) -> None:
    devices = {name: str(value.device) for name, value in pair.spread.named_parameters()}
    assert len(set(devices.values())) > 1
    for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"):
        assert devices[name] == "cuda:0"


@pytest.mark.parametrize("attributor", [Attributor.ATTNLRP, Attributor.WANDA])
@pytest.mark.parametrize("granularity", list(Granularity))
def test_relevance(pair: Pair, granularity: Granularity, attributor: Attributor) -> None:
    found, expected = (
        compute_relevance(
            as_loaded(model),
            Attribution(attributor, granularity, Target.EMITTED_LOG_PROBABILITY),
            SAMPLES,
        )
        for model in (pair.spread, pair.near)
    )
    for name, values in expected.mean.items():
        assert_close(found.mean[name], values)


def test_mean_activations(pair: Pair) -> None:
    found, expected = (
        compute_mean_inputs(as_loaded(model), find_mlp_outputs(model, LLAMA), SAMPLES)
        for model in (pair.spread, pair.near)
    )
    for name, values in expected.items():
        assert_close(found[name], values)


def test_responses(pair: Pair) -> None:
    prompts = [sample.token_ids for sample in SAMPLES]
    found, expected = (
        generate_responses(as_loaded(model), prompts, 8) for model in (pair.spread, pair.near)
    )
    assert found == expected


def test_damage(pair: Pair) -> None:
    found, expected = (
        ReferenceText(as_loaded(model), SAMPLES).measure(as_loaded(model))
        for model in (pair.spread, pair.near)
    )
    assert found.perplexity == pytest.approx(expected.perplexity, rel=1e-3)
    assert found.kl_mean == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("attributor", [Attributor.ATTNLRP, Attributor.WANDA])
def test_compression_block_after_block(pair: Pair, attributor: Attributor) -> None:
    plan = CompressionPlan(attributor, RowShare(0.5), calibration=Calibration.SEQUENTIAL)
    for model in (pair.spread, pair.near):
        compress(as_loaded(model), plan, SAMPLES)
    near = dict(pair.near.named_parameters())
    for name, weight in pair.spread.named_parameters():
        # Scores that are nearly equal may change places.
        assert ((weight.cpu() == 0) != (near[name] == 0)).float().mean() < 0.01
