"""Sums of single weights segment by segment: the same as from one pass, whatever the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from excise.names import Attributor, Granularity, Statistic
from tests.tiny import as_loaded, draw_samples, weight_bytes
from tests.tiny_families import SETTINGS, build_family_model
from workers.attribution import accumulation
from workers.attribution import segments as segments_module
from workers.attribution.attribution import Attribution, Pass
from workers.attribution.attributors import sum_relevance
from workers.attribution.memory import SampleTooLargeError
from workers.attribution.segments import (
    Reading,
    choose_anchors,
    count_segments,
    cut_layers,
    sum_in_segments,
)
from workers.attribution.sums import RelevanceSums
from workers.attribution.targets import Target

LAYERS = 5
WEIGHT = Granularity.WEIGHT
GENERAL = draw_samples([(9, 0), (3, 0), (14, 0), (6, 0)], 1)
PROTECTED = draw_samples([(5, 4), (2, 7)], 2)
UNDESIRED = draw_samples([(4, 6), (8, 3), (2, 2)], 3)
LOSS = Attribution(
    Attributor.GRADIENT_X_INPUT,
    WEIGHT,
    Target.EMITTED_LOG_PROBABILITY,
    frozenset({Statistic.MEAN}),
)
DIVERGENCE = Attribution(
    Attributor.GRADIENT_X_INPUT,
    WEIGHT,
    Target.SAMPLED_LOG_PROBABILITY,
    frozenset({Statistic.MEAN_SQUARE}),
    seed=7,
)


def explain(attributor: Attributor) -> Attribution:
    """What is asked of undesired responses."""
    return Attribution(attributor, WEIGHT, Target.EMITTED_MINUS_RUNNER_UP, seed=3)


def build_model(name: str, **changes: Any) -> PreTrainedModel:
    """A tiny model of the family with as many layers as there are segments to be."""
    own: dict[str, Any] = {"num_hidden_layers": LAYERS}
    if name in ("qwen2", "gemma3_text"):
        own["layer_types"] = ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"]
    return build_family_model(name, **(own | changes))


def sum_readings(
    model: nn.Module, attributor: Attributor, segments: Sequence[range], **options: Any
) -> list[dict[str, torch.Tensor]]:
    """The sums of loss, divergence and undesired responses, module → tensor."""
    readings = (Reading(GENERAL, (0, 1)), Reading(PROTECTED, (0,)), Reading(UNDESIRED, (2,)))
    asked = (LOSS, DIVERGENCE, explain(attributor))
    found: list[dict[str, torch.Tensor]] = [{}, {}, {}]
    for part in sum_in_segments(as_loaded(model), asked, readings, segments, Pass(**options)):
        for number, sums in enumerate(part):
            found[number] |= read(sums)
    return found


def read(sums: RelevanceSums) -> dict[str, torch.Tensor]:
    """The only statistic there is."""
    return dict(next(mapping for mapping in sums.statistics if mapping))


def sum_at_once(model: nn.Module, attributor: Attributor) -> list[dict[str, torch.Tensor]]:
    """The same by plain passes."""
    loaded = as_loaded(model)
    return [
        read(sum_relevance(loaded, LOSS, [*GENERAL, *PROTECTED])),
        read(sum_relevance(loaded, DIVERGENCE, GENERAL)),
        read(sum_relevance(loaded, explain(attributor), UNDESIRED)),
    ]


def assert_same(
    found: Sequence[dict[str, torch.Tensor]],
    expected: Sequence[dict[str, torch.Tensor]],
    tolerance: float = 1e-5,
) -> None:
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        assert sum(bool(values.any()) for values in theirs.values()) > len(theirs) / 2
        for name, values in theirs.items():
            scale = float(values.abs().max())
            torch.testing.assert_close(mine[name], values, rtol=1e-3, atol=tolerance * scale)


@pytest.mark.parametrize(
    ("layers", "segments", "expected"),
    [
        (5, 1, [range(5)]),
        (5, 2, [range(2, 5), range(2)]),
        (6, 4, [range(4, 6), range(3, 4), range(1, 3), range(1)]),
        (3, 9, [range(2, 3), range(1, 2), range(1)]),
        (3, 0, [range(3)]),
    ],
)
def test_layers_are_cut_evenly_from_the_top(
    layers: int, segments: int, expected: list[range]
) -> None:
    assert list(cut_layers(layers, segments)) == expected


@pytest.mark.parametrize(
    ("free", "share", "expected"),
    [(1 << 40, 100.0, 1), (1 << 40, 1.0, 3), (0, 100.0, LAYERS), (None, 100.0, 3)],
)
def test_as_few_segments_as_memory_holds(
    free: int | None, share: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = as_loaded(build_model("llama"))
    weights = sum(loaded.count_components(WEIGHT).values())
    every = sum(own.numel() * own.element_size() for own in loaded.model.parameters())
    needed = 3 * 4 * weights  # one statistic of each of three questions, in float32
    if free is None:  # sums of two of five layers fit into half of what is free
        free = needed
    monkeypatch.setattr(segments_module, "MODEL_SHARE", share)
    monkeypatch.setattr(segments_module, "find_free_memory", lambda device: free)
    assert 2 * every < needed < 3 * every
    asked = (LOSS, DIVERGENCE, explain(Attributor.ATTNLRP))
    assert count_segments(loaded, asked) == expected


@pytest.mark.parametrize(
    ("starts", "kept"),
    [
        ([], set()),
        ([0], {0}),
        ([2, 0], {0}),
        ([9, 6, 3, 0], {0, 6}),
        (list(reversed(range(21))), {0, 5, 10, 15, 20}),
    ],
)
def test_about_the_square_root_of_all_states_is_kept(starts: list[int], kept: set[int]) -> None:
    assert choose_anchors(starts) == kept


@pytest.mark.parametrize("name", SETTINGS)
def test_any_number_of_segments_gives_the_sums_of_plain_passes(name: str) -> None:
    model = build_model(name)
    before = weight_bytes(model)
    expected = sum_at_once(model, Attributor.ATTNLRP)
    for segments in (1, 2, 5):
        found = sum_readings(model, Attributor.ATTNLRP, cut_layers(LAYERS, segments))
        assert_same(found, expected)
    assert weight_bytes(model) == before
    assert all(not module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "gpt2", "mixtral"])
def test_in_bfloat16_segments_lose_nothing_more(name: str) -> None:
    model = build_model(name).bfloat16()
    expected = sum_at_once(model, Attributor.ATTNLRP)
    for segments in (1, 2, 5):
        found = sum_readings(model, Attributor.ATTNLRP, cut_layers(LAYERS, segments))
        assert_same(found, expected, 2e-2)


@pytest.mark.parametrize("attributor", list(Attributor))
def test_every_attributor_answers_in_segments(attributor: Attributor) -> None:
    model = build_model("llama")
    expected = sum_at_once(model, attributor)
    assert_same(sum_readings(model, attributor, cut_layers(LAYERS, 3)), expected)


def test_finished_segments_are_passed_over(subtests: Any) -> None:
    model = build_model("qwen3")
    segments = cut_layers(LAYERS, 5)
    expected = sum_at_once(model, Attributor.CP_LRP)
    for done in range(1, 5):
        with subtests.test(done=done):
            found = sum_readings(model, Attributor.CP_LRP, segments[done:])
            left = [
                {name: own[name] for name in mine}
                for own, mine in zip(expected, found, strict=True)
            ]
            assert 0 < len(left[0]) < len(expected[0])
            assert_same(found, left)


def test_samples_are_counted_for_every_segment() -> None:
    counts: list[int] = []
    sum_readings(
        build_model("llama"), Attributor.ATTNLRP, cut_layers(LAYERS, 2), advance=counts.append
    )
    assert sum(counts) == 2 * (len(GENERAL) + len(PROTECTED) + len(UNDESIRED))


def test_whoever_listens_may_stop_between_two_batches() -> None:
    model = build_model("llama")

    def stop(units: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sum_readings(model, Attributor.ATTNLRP, cut_layers(LAYERS, 2), advance=stop)
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("layer", [0, 2, 4])
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "mixtral"])
def test_batches_that_do_not_fit_are_halved_in_whatever_segment(name: str, layer: int) -> None:
    model = build_model(name)
    expected = sum_at_once(model, Attributor.ATTNLRP)
    told: list[tuple[int, int]] = []

    def fail(module: nn.Module, args: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled() and args[0].requires_grad and args[0].shape[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.get_submodule(f"model.layers.{layer}.mlp").register_forward_pre_hook(fail)
    found = sum_readings(
        model,
        Attributor.ATTNLRP,
        cut_layers(LAYERS, 5),
        on_halved=lambda *batch: told.append(batch),
    )
    assert told
    assert_same(found, expected)


@pytest.mark.parametrize("name", ["llama", "mixtral"])
@pytest.mark.parametrize("failing", [1, 4, 9, 15, 30, 44, 60])
def test_sums_that_a_failed_batch_reached_are_not_added_twice(
    failing: int, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(name)
    expected = sum_at_once(model, Attributor.ATTNLRP)
    calls, plain = 0, accumulation.Accumulator.missing

    def missing(self: Any, site: Any, width: int) -> Any:
        nonlocal calls
        for item in plain(self, site, width):
            calls += 1
            if calls == failing:
                raise torch.OutOfMemoryError("CUDA out of memory")
            yield item

    monkeypatch.setattr(accumulation.Accumulator, "missing", missing)
    told: list[tuple[int, int]] = []
    found = sum_readings(
        model,
        Attributor.ATTNLRP,
        cut_layers(LAYERS, 3),
        on_halved=lambda *batch: told.append(batch),
    )
    assert len(told) == 1
    assert_same(found, expected)


def test_a_single_sample_that_does_not_fit_is_an_error() -> None:
    model = build_model("llama")

    def fail(module: nn.Module, args: tuple[Any, ...]) -> None:
        raise MemoryError

    model.get_submodule("model.layers.1.mlp").register_forward_pre_hook(fail)
    with pytest.raises(SampleTooLargeError, match="shorten it"):
        sum_readings(model, Attributor.ATTNLRP, cut_layers(LAYERS, 2))
