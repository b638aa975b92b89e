"""Bytes that a job takes: the rows candidates are weighed by, on the right memory, not twice."""

from __future__ import annotations

from excise.estimates.memory import (
    MOST_ENTRIES,
    MOST_SHARES,
    POOL_RATIO,
    PROTECTED_ROWS,
    REFERENCE_ROWS,
    ROW_BYTES,
    count_footprint,
)
from excise.estimates.prompts import SetSize
from excise.estimates.shape import ModelShape
from excise.names import Granularity
from excise.specs import CorrectionSpec
from tests.unit.excise.estimates.test_estimate import SMOLLM2, build_spec
from tests.unit.excise.estimates.test_shape import LLAMA_8B

SETS = [SetSize(100, 1000)]


def count_host(spec: CorrectionSpec, config: dict, *, on_gpu: bool = True) -> int:
    return count_footprint(spec, ModelShape.of(config), SETS, on_gpu=on_gpu).host_bytes


def weights(**changes) -> CorrectionSpec:
    attribution = {"granularity": "weight", **changes.pop("attribution", {})}
    return build_spec(**{"search": {}, "attribution": attribution, **changes})


def test_candidates_take_a_number_for_each_row() -> None:
    unweighed = weights(attribution={"score": "signed_difference"})
    rows = count_host(weights(protect=None), SMOLLM2) - count_host(unweighed, SMOLLM2)
    pool = POOL_RATIO * int(MOST_SHARES[Granularity.WEIGHT] * ModelShape.of(SMOLLM2).linear_weights)
    assert rows == ROW_BYTES * REFERENCE_ROWS * pool
    guarded = count_host(weights(), SMOLLM2) - count_host(unweighed, SMOLLM2)
    assert guarded == ROW_BYTES * (REFERENCE_ROWS + PROTECTED_ROWS) * pool


def test_rows_of_reference_text_have_an_end_and_those_of_slices_have_none() -> None:
    unweighed = count_host(weights(attribution={"score": "signed_difference"}), LLAMA_8B)
    assert count_host(weights(protect=None), LLAMA_8B) - unweighed == ROW_BYTES * MOST_ENTRIES
    assert count_host(weights(), LLAMA_8B) - unweighed > 2 * ROW_BYTES * MOST_ENTRIES


def test_listed_amounts_decide_and_a_refinement_may_double_them() -> None:
    def count(search: dict) -> int:
        return count_host(weights(search=search, protect=None), SMOLLM2)

    few, more = count({"amounts": [1000]}), count({"amounts": [500, 2000]})
    assert more - few == ROW_BYTES * REFERENCE_ROWS * POOL_RATIO * 1000
    by_name = count({"amounts": {"weight": [2000]}})
    assert by_name == more == count({"amounts": [1000], "preset": "thorough"})


def test_without_a_gpu_rows_and_sums_are_not_there_at_once() -> None:
    shape = ModelShape.of(SMOLLM2)
    found = count_footprint(weights(), shape, SETS, on_gpu=False)
    neurons = count_footprint(
        weights(attribution={"granularity": "neuron"}), shape, SETS, on_gpu=False
    )
    saved = found.host_bytes - neurons.host_bytes
    pool = POOL_RATIO * int(MOST_SHARES[Granularity.WEIGHT] * shape.linear_weights)
    assert 0 < saved <= ROW_BYTES * (REFERENCE_ROWS + PROTECTED_ROWS) * pool


def test_more_single_weights_take_more_disk() -> None:
    shape = ModelShape.of(SMOLLM2)
    few, many = (
        count_footprint(weights(search={"amounts": [own]}), shape, SETS, on_gpu=False).disk_bytes
        for own in (1000, 100_000)
    )
    assert many > few
