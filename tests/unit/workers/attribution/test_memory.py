"""Out of memory: halves from then on, each token counted once, said aloud, errors with a remedy."""

from __future__ import annotations

import logging

import pytest
import torch
from transformers import LlamaForCausalLM

from excise.names import Attributor, Granularity
from tests.tiny import as_loaded, draw_samples
from workers.attribution import accumulation
from workers.attribution.attribution import Attribution, Pass
from workers.attribution.attributors import compute_relevance
from workers.attribution.memory import SampleTooLargeError
from workers.attribution.sums import ALL_STATISTICS
from workers.attribution.targets import Target
from workers.domain import Relevance

SAMPLES = draw_samples([(8, 4)] * 8 + [(3, 2)] * 3)
FAULTS = (
    torch.OutOfMemoryError("CUDA out of memory"),
    MemoryError(),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
)


def attribute(model, granularity=Granularity.NEURON, attributor=Attributor.ATTNLRP, **options):
    target = Target.EMITTED_MINUS_RUNNER_UP
    return compute_relevance(
        as_loaded(model),
        Attribution(attributor, granularity, target, statistics=ALL_STATISTICS),
        SAMPLES,
        Pass(**options),
    )


def assert_same(left: Relevance, right: Relevance) -> None:
    assert (left.tokens, left.samples) == (right.tokens, right.samples)
    for kind in ("mean", "mean_absolute", "mean_square"):
        for name, expected in getattr(right, kind).items():
            scale = float(expected.abs().max())
            found = getattr(left, kind)[name]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * scale)


def fail_above(model: LlamaForCausalLM, tokens: int, fault: Exception) -> list[int]:
    """Let the model's last layer fail on more than `tokens` tokens; return the sizes it saw."""
    sizes: list[int] = []

    def hook(module, args) -> None:
        sizes.append(args[0].shape[0] * args[0].shape[1])
        if sizes[-1] > tokens:
            raise fault

    model.model.layers[-1].register_forward_pre_hook(hook)
    return sizes


@pytest.mark.parametrize("fault", FAULTS, ids=["torch", "python", "cpu"])
@pytest.mark.parametrize("attributor", [Attributor.ATTNLRP, Attributor.WANDA])
def test_a_batch_that_does_not_fit_is_halved(model, fault, attributor) -> None:
    expected = attribute(model, attributor=attributor)
    sizes = fail_above(model, 30, fault)
    told: list[tuple[int, int]] = []
    counted: list[int] = []
    found = attribute(
        model,
        attributor=attributor,
        batch_tokens=96,
        on_halved=lambda *batch: told.append(batch),
        advance=counted.append,
    )
    assert_same(found, expected)
    assert told == [(8, 96), (4, 48)]
    assert sizes == [96, 48, 24, 24, 24, 24, 15]
    assert counted == [8, 3]


@pytest.mark.parametrize("granularity", list(Granularity))
@pytest.mark.parametrize("failing", range(1, 7))
def test_sums_that_a_failed_batch_reached_are_not_added_twice(
    model: LlamaForCausalLM, granularity: Granularity, failing: int, monkeypatch
) -> None:
    # Memory runs out in the middle of the backward pass, at one of the sums.
    expected = attribute(model, granularity)
    calls, plain = 0, accumulation.Accumulator.missing

    def missing(self, *site):
        nonlocal calls
        for item in plain(self, *site):
            calls += 1
            if calls == failing:
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield item

    monkeypatch.setattr(accumulation.Accumulator, "missing", missing)
    told: list[tuple[int, int]] = []
    found = attribute(model, granularity, on_halved=lambda *batch: told.append(batch))
    assert told == [(11, 132)]
    assert_same(found, expected)


def test_halving_is_logged(model: LlamaForCausalLM, caplog) -> None:
    fail_above(model, 100, MemoryError())
    with caplog.at_level(logging.WARNING):
        attribute(model)
    assert (
        "out of memory on a batch of 11 samples, 132 tokens: continuing with halves" in caplog.text
    )


def test_a_single_sample_that_does_not_fit_is_an_error(model: LlamaForCausalLM) -> None:
    fail_above(model, 10, MemoryError())
    with pytest.raises(SampleTooLargeError, match=r"sample 0 with 12 tokens.*shorten it"):
        attribute(model)


@pytest.mark.parametrize("fault", [RuntimeError("shape mismatch"), ValueError("no")])
def test_other_errors_go_through(model: LlamaForCausalLM, fault: Exception) -> None:
    fail_above(model, 10, fault)
    with pytest.raises(type(fault), match=str(fault)):
        attribute(model)
