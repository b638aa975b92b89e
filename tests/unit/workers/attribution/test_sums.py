"""Partial sums: added in order to the same bits, through bytes unchanged, refused when unlike."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from excise.names import Attributor, Granularity, Statistic
from tests.tiny import as_loaded, draw_samples
from workers.attribution.attribution import Attribution
from workers.attribution.attributors import compute_relevance, sum_relevance
from workers.attribution.sums import (
    ALL_STATISTICS,
    Combination,
    IncompatibleSumsError,
    RelevanceSums,
    finish,
    merge_sums,
    parse_sums,
    serialise_sums,
)
from workers.attribution.targets import Target

SAMPLES = draw_samples(((9, 4), (3, 8), (5, 0), (2, 1), (14, 0), (1, 6)))
SHARDS = (SAMPLES[:2], SAMPLES[2:3], SAMPLES[3:])
every_attributor = pytest.mark.parametrize("attributor", list(Attributor))
every_granularity = pytest.mark.parametrize("granularity", list(Granularity))


def sum_shard(model, attributor, granularity, samples, statistics=ALL_STATISTICS) -> RelevanceSums:
    target = Target.EMITTED_MINUS_RUNNER_UP
    return sum_relevance(
        as_loaded(model),
        Attribution(attributor, granularity, target, statistics=statistics),
        samples,
    )


@every_attributor
@every_granularity
def test_shards_add_up_to_one_pass(
    model: LlamaForCausalLM, attributor: Attributor, granularity: Granularity
) -> None:
    shards = [sum_shard(model, attributor, granularity, shard) for shard in SHARDS]
    merged = finish(merge_sums(shards))
    whole = compute_relevance(
        as_loaded(model),
        Attribution(
            attributor, granularity, Target.EMITTED_MINUS_RUNNER_UP, statistics=ALL_STATISTICS
        ),
        SAMPLES,
    )
    assert (merged.tokens, merged.samples) == (whole.tokens, whole.samples)
    for kind in ("mean", "mean_absolute", "mean_square"):
        found, expected = getattr(merged, kind), getattr(whole, kind)
        assert tuple(found) == tuple(expected) != ()
        for name, value in expected.items():
            scale = float(value.abs().max())
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5 * scale)


@every_attributor
def test_merged_bits_do_not_depend_on_who_summed_or_in_how_many_steps(attributor, model) -> None:
    first = [sum_shard(model, attributor, Granularity.NEURON, shard) for shard in SHARDS]
    again = [sum_shard(model, attributor, Granularity.NEURON, shard) for shard in SHARDS[::-1]]
    straight = serialise_sums(merge_sums(first))
    assert serialise_sums(merge_sums(again[::-1])) == straight
    travelled = [parse_sums(serialise_sums(part)) for part in first]
    stepwise = merge_sums([merge_sums(travelled[:2]), travelled[2]])
    assert serialise_sums(stepwise) == straight


@every_attributor
@every_granularity
def test_sums_survive_their_bytes(model, attributor, granularity) -> None:
    sums = sum_shard(model, attributor, granularity, SAMPLES)
    parsed = parse_sums(serialise_sums(sums))
    assert (parsed.tokens, parsed.samples) == (sums.tokens, sums.samples)
    assert parsed.combination is sums.combination
    for found, expected in zip(parsed.statistics, sums.statistics, strict=True):
        assert tuple(found) == tuple(expected)
        for name, value in expected.items():
            assert torch.equal(found[name], value)
            assert found[name].dtype == torch.float32


def test_merging_changes_no_part(model: LlamaForCausalLM) -> None:
    parts = [sum_shard(model, Attributor.ATTNLRP, Granularity.HEAD, shard) for shard in SHARDS]
    before = [serialise_sums(part) for part in parts]
    merge_sums(parts)
    assert [serialise_sums(part) for part in parts] == before


def test_finishing_in_place_overwrites_the_sums_and_otherwise_does_not() -> None:
    sums = RelevanceSums({"a": torch.tensor([4.0])}, {}, {}, 2, 1)
    assert finish(sums).mean["a"].item() == 2.0
    assert sums.sums["a"].item() == 4.0
    assert finish(sums, in_place=True).mean["a"] is sums.sums["a"]
    assert sums.sums["a"].item() == 2.0


def test_unlike_sums_are_refused() -> None:
    sums = RelevanceSums({"a": torch.zeros(3)}, {}, {}, 2, 1)
    others = (
        replace(sums, sums={"b": torch.zeros(3)}),
        replace(sums, sums={"a": torch.zeros(4)}),
        replace(sums, square_sums={"a": torch.zeros(3)}),
        replace(sums, combination=Combination.MAGNITUDE),
    )
    for other in others:
        with pytest.raises(IncompatibleSumsError, match="one run only"):
            merge_sums([sums, other])
    with pytest.raises(IncompatibleSumsError, match="at least one"):
        merge_sums([])


def test_a_mean_over_no_tokens_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        finish(RelevanceSums({"a": torch.zeros(3)}, {}, {}, 0, 0))


@every_granularity
def test_statistics_are_those_asked_for(model: LlamaForCausalLM, granularity) -> None:
    wanted = frozenset({Statistic.MEAN_SQUARE})
    sums = sum_shard(model, Attributor.ATTNLRP, granularity, SAMPLES, wanted)
    assert (len(sums.sums), len(sums.absolute_sums)) == (0, 0)
    assert sums.square_sums
    default = sum_shard(model, Attributor.ATTNLRP, granularity, SAMPLES, None)
    is_weight = granularity is Granularity.WEIGHT
    assert bool(default.absolute_sums) is bool(default.square_sums) is not is_weight
