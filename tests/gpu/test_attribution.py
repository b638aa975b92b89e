"""Attribution on a CUDA device: the logits untouched, the CPU's relevance, real lack of memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from excise.names import Attributor, Granularity
from tests.tiny import as_loaded, build_tiny_model, draw_samples
from workers.attribution.attribution import Attribution, Pass
from workers.attribution.attributors import compute_relevance
from workers.attribution.composites import ATTN_LRP, attribution_rules
from workers.attribution.targets import Target
from workers.domain import Relevance

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

SAMPLES = draw_samples([(40, 8)] * 6 + [(17, 3), (60, 0)])
LARGE = {"hidden_size": 512, "intermediate_size": 2048, "max_position_embeddings": 1024}


def attribute(model: nn.Module, granularity: Granularity, **options) -> Relevance:
    target = Target.EMITTED_LOG_PROBABILITY
    samples = options.pop("samples", SAMPLES)
    return compute_relevance(
        as_loaded(model),
        Attribution(Attributor.ATTNLRP, granularity, target),
        samples,
        Pass(**options),
    )


def assert_close(found: Relevance, expected: Relevance, tolerance: float) -> None:
    for name, values in expected.mean.items():
        distance = torch.linalg.vector_norm(found.mean[name] - values)
        assert float(distance / torch.linalg.vector_norm(values)) < tolerance, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_rules_leave_logits_bit_identical(dtype: torch.dtype) -> None:
    model = build_tiny_model(**LARGE).to("cuda", dtype)
    ids = torch.tensor([sample.token_ids for sample in SAMPLES[:6]], device="cuda")
    with torch.no_grad():
        plain = model(ids).logits
        with attribution_rules(as_loaded(model), ATTN_LRP):
            ruled = model(ids).logits
        after = model(ids).logits
    assert torch.equal(plain, ruled)
    assert torch.equal(plain, after)


@pytest.mark.parametrize("granularity", list(Granularity))
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.1)])
def test_relevance_is_the_cpu_s(
    granularity: Granularity, dtype: torch.dtype, tolerance: float
) -> None:
    model = build_tiny_model(**LARGE, initializer_range=0.05)
    expected = attribute(model, granularity)
    found = attribute(model.to("cuda", dtype), granularity)
    assert all(values.dtype == torch.float32 for values in found.mean.values())
    assert_close(found, expected, tolerance)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two CUDA devices")
@pytest.mark.parametrize("granularity", list(Granularity))
def test_a_model_on_two_devices(granularity: Granularity) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = build_tiny_model(**LARGE, initializer_range=0.05)
    expected = attribute(model, granularity)
    places = {
        "model.embed_tokens": 0,
        "model.rotary_emb": 0,
        "model.layers.0": 0,
        "model.layers.1": 1,
        "model.norm": 1,
        "lm_head": 1,
    }
    found = attribute(accelerate.dispatch_model(model, device_map=places), granularity)
    assert_close(found, expected, 1e-3)


@pytest.fixture
def limited() -> Iterator[None]:
    """Whatever limit a test sets on the device's memory is lifted after it."""
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def find_peak(model: nn.Module, samples: int) -> int:
    """Bytes that attribution of so many samples in one batch reserves."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    attribute(model, Granularity.NEURON, samples=LONG[:samples], batch_tokens=10**6)
    return torch.cuda.max_memory_reserved()


LONG = draw_samples([(512, 0)] * 32)


@pytest.mark.usefixtures("limited")
def test_a_batch_that_does_not_fit_is_halved() -> None:
    model = build_tiny_model(**LARGE, initializer_range=0.05).to("cuda")
    half, whole = find_peak(model, 16), find_peak(model, 32)
    assert half < whole
    expected = attribute(model, Granularity.NEURON, samples=LONG, batch_tokens=512)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((half + whole) / 2 / total)
    told: list[tuple[int, int]] = []
    found = attribute(
        model,
        Granularity.NEURON,
        samples=LONG,
        batch_tokens=10**6,
        on_halved=lambda *batch: told.append(batch),
    )
    assert told[0] == (32, 32 * 512)
    assert found.tokens == expected.tokens
    assert_close(found, expected, 1e-3)
