"""What a job takes: recorded jobs within a factor of two, and what would fit where it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from excise.estimates.estimate import (
    Estimate,
    JobEstimate,
    Question,
    describe_bytes,
    estimate,
    explain_refusal,
)
from excise.estimates.machine import Machine, choose_dtype
from excise.estimates.prompts import JobSets, SetSize
from excise.estimates.shape import ModelShape
from excise.names import ComputeDtype, MachineSource
from excise.specs import CorrectionSpec
from tests.unit.excise.estimates.test_shape import LLAMA_8B

GIB = 2**30
SMOLLM2 = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 30,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
TWO_CORES = Machine(host_bytes=24 * GIB, flops=2 * 137e9, bytes_per_second=2e10)
H100 = Machine(
    device="NVIDIA H100",
    device_bytes=80 * GIB,
    host_bytes=256 * GIB,
    flops=6e13,
    low_precision_flops=9e14,
    bytes_per_second=3.3e12,
)


def build_spec(**changes) -> CorrectionSpec:
    document = {
        "kind": "correction",
        "model": "m",
        "behaviours": [{"name": "repetition", "kind": "repetition", "prompts": "p"}],
        "reference": "r",
        "attribution": {"granularity": "weight", "reference_tokens": 3072},
        "search": {"rounds": 6},
    }
    return CorrectionSpec.model_validate(document | changes)


def ask(
    spec: CorrectionSpec,
    config: dict,
    machine: Machine,
    prompts: int = 142,
    reference: SetSize | None = None,
    corpus: SetSize | None = None,
) -> Estimate:
    sizes = [SetSize(prompts, 10 * prompts)] * len(spec.behaviours)
    sets = JobSets(sizes, reference, corpus)
    return estimate(Question(spec, ModelShape.of(config), sets), machine)


DEMO = {
    "float32": {"prepare": 42, "attribute": 134, "search": 779, "validate": 205},
    "bfloat16": {"prepare": 30, "attribute": 127, "search": 604, "validate": 113},
}
"""Seconds of the demo's stages on two idle cores with AMX, eight rounds: benchmarks/RESULTS.md,
2026-11-30."""


@pytest.mark.parametrize("dtype", DEMO)
def test_the_recorded_demo_is_met_within_a_factor_of_two(dtype: str) -> None:
    cores = TWO_CORES.model_copy(update={"low_precision_flops": 5 * TWO_CORES.flops})
    spec = build_spec(dtype=dtype, search={"rounds": 8}, perplexity={"prompts": "c"})
    files = (Path("examples/reference.txt"), Path("examples/perplexity.txt"))
    reference, corpus = (SetSize.of_file(1, path.stat().st_size) for path in files)
    found = ask(spec, SMOLLM2, cores, reference=reference, corpus=corpus)
    for stage, seconds in DEMO[dtype].items():
        assert seconds / 2 < found.stages[stage] < 2 * seconds
    assert found.fits
    assert found.problem is None


def test_a_job_that_does_not_fit_says_what_would() -> None:
    found = ask(build_spec(), LLAMA_8B, TWO_CORES)
    assert not found.fits
    assert "of main memory, of 24.0 GiB" in (found.problem or "")
    changes = [setting.change for setting in found.cheaper]
    assert {"dtype": "bfloat16"} in changes
    assert {"attribution.granularity": "neuron"} in changes


def test_eight_billion_weights_fit_one_gpu_in_bfloat16_alone() -> None:
    assert ask(build_spec(dtype="bfloat16"), LLAMA_8B, H100).fits
    assert ask(build_spec(dtype="float32"), LLAMA_8B, H100).device_bytes > 32 * GIB


def test_low_precision_gains_no_more_on_a_cpu_than_a_pass_does() -> None:
    """Products of matrices may be a dozen times as fast, but a pass is not only these."""
    fast = TWO_CORES.model_copy(update={"low_precision_flops": 13 * TWO_CORES.flops})
    usual, low = (ask(build_spec(dtype=own), SMOLLM2, fast).stages for own in DEMO)
    gains = {stage: usual[stage] / low[stage] for stage in ("prepare", "attribute", "validate")}
    assert gains["prepare"] == pytest.approx(1.4)
    assert gains["attribute"] == pytest.approx(1.2)
    assert 1.4 < gains["validate"] < 2


def test_a_gpu_gains_what_its_products_gain() -> None:
    usual, low = (ask(build_spec(dtype=own), LLAMA_8B, H100).stages for own in DEMO)
    assert usual["attribute"] / low["attribute"] == pytest.approx(15)


def test_proposals_that_fit_come_first() -> None:
    small = H100.model_copy(update={"device_bytes": 40 * GIB})
    found = ask(build_spec(dtype=ComputeDtype.FLOAT32.value), LLAMA_8B, small)
    assert not found.fits
    fitting = [setting.fits for setting in found.cheaper]
    assert fitting == sorted(fitting, reverse=True)
    assert found.cheaper[0].fits


def test_more_prompts_take_longer_and_amounts_go_with_their_granularity() -> None:
    few, many = (ask(build_spec(), SMOLLM2, TWO_CORES, count) for count in (100, 1000))
    assert many.minutes > few.minutes
    spec = build_spec(search={"amounts": [4000, 8000]})
    changes = [setting.change for setting in ask(spec, SMOLLM2, TWO_CORES).cheaper]
    assert {"attribution.granularity": "neuron"} in changes


def test_of_several_granularities_single_weights_alone_are_proposed_too() -> None:
    found = ask(build_spec(attribution={"granularity": "auto"}), SMOLLM2, TWO_CORES)
    weights = {"attribution.granularity": "weight"}
    (alone,) = [setting for setting in found.cheaper if setting.change == weights]
    assert alone.minutes < 0.75 * found.minutes
    assert weights not in [own.change for own in ask(build_spec(), SMOLLM2, TWO_CORES).cheaper]


def test_less_reference_text_than_the_spec_may_use_takes_less_to_attribute() -> None:
    """Half of it is attributed; a text that is long enough changes nothing."""
    most = ask(build_spec(), SMOLLM2, TWO_CORES).stages
    long = ask(build_spec(), SMOLLM2, TWO_CORES, reference=SetSize(90, 2 * 3072)).stages
    short = ask(build_spec(), SMOLLM2, TWO_CORES, reference=SetSize(9, 1024)).stages
    assert long == most
    assert short["attribute"] < most["attribute"]
    assert {**short, "attribute": 0} == {**most, "attribute": 0}


def test_the_corpus_is_counted_in_whole_windows_and_only_if_it_is_measured() -> None:
    def validate(spec: CorrectionSpec, tokens: int | None) -> float:
        corpus = None if tokens is None else SetSize(1, tokens)
        return ask(spec, SMOLLM2, TWO_CORES, corpus=corpus).stages["validate"]

    asked = build_spec(perplexity={"prompts": "c", "context": 512, "sequences": 8})
    assert validate(asked, None) == validate(asked, 9 * 512) > validate(asked, 3 * 512 + 100)
    assert validate(asked, 3 * 512) == validate(asked, 3 * 512 + 100) > validate(asked, 100)
    assert validate(build_spec(), None) == validate(asked, 100)


def test_bytes_are_told_in_units_people_read() -> None:
    assert describe_bytes(540 * 2**20) == "540 MiB"
    assert describe_bytes(3.25 * 2**30) == "3.2 GiB"


def test_what_no_single_change_saves_several_do_together() -> None:
    found = ask(build_spec(), LLAMA_8B, TWO_CORES)
    first = found.cheaper[0]
    assert first.change == {"dtype": "bfloat16", "attribution.granularity": "neuron"}
    assert first.fits
    assert not any(setting.fits for setting in found.cheaper[1:])
    assert all(
        len(setting.change) == 1 for setting in ask(build_spec(), SMOLLM2, TWO_CORES).cheaper
    )


def test_a_refusal_names_what_is_needed_what_there_is_and_what_would_fit() -> None:
    small = H100.model_copy(update={"device_bytes": 40 * GIB})
    says = explain_refusal(ask(build_spec(dtype="float32"), LLAMA_8B, small))
    assert "on the device, which has 40.0 GiB" in says
    assert "These would fit: dtype = bfloat16 (" in says
    assert "GiB on the device, under a minute)" in says
    assert "attribution.granularity" not in says  # 39 GiB, of which a tenth is for others
    assert "set insist to true" in says


def test_a_refusal_of_what_nothing_saves_says_so() -> None:
    tiny = TWO_CORES.model_copy(update={"host_bytes": 4 * GIB})
    says = explain_refusal(ask(build_spec(), LLAMA_8B, tiny))
    assert "of main memory, of 4.0 GiB" in says
    assert "No cheaper setting would fit" in says


def test_room_for_results_counts_where_it_is_known() -> None:
    full = TWO_CORES.model_copy(update={"disk_bytes": 2 * 2**20})
    found = ask(build_spec(), SMOLLM2, full)
    assert not found.fits
    assert found.problem is not None
    assert found.problem.endswith("where results are kept, of which 2 MiB are free")
    assert "Make room there" in explain_refusal(found)
    assert ask(build_spec(), SMOLLM2, TWO_CORES.model_copy(update={"disk_bytes": GIB})).fits


def test_an_estimate_says_for_whose_machine_it_is() -> None:
    found = ask(build_spec(), SMOLLM2, TWO_CORES)
    told = JobEstimate.of(found, MachineSource.WORKER, 3)
    assert (told.minutes, told.source, told.workers) == (found.minutes, "worker", 3)
    assert JobEstimate.model_validate(told.model_dump(mode="json")) == told


SLOW_IN_BFLOAT16 = TWO_CORES.model_copy(update={"low_precision_flops": TWO_CORES.flops / 8})


@pytest.mark.parametrize(
    ("machines", "chosen"),
    [
        ([H100], "bfloat16"),
        ([H100, SLOW_IN_BFLOAT16], "float32"),
        ([H100, TWO_CORES], "float32"),  # whose speed in bfloat16 was not measured
        ([], "float32"),
    ],
)
def test_an_automatic_dtype_suits_every_machine(machines: list[Machine], chosen: str) -> None:
    assert choose_dtype(ComputeDtype.AUTO, machines) == chosen
    assert choose_dtype(ComputeDtype.FLOAT32, machines) == "float32"
    assert choose_dtype(ComputeDtype.BFLOAT16, machines) == "bfloat16"


def test_an_automatic_dtype_is_estimated_as_what_it_would_be() -> None:
    automatic, low = (ask(build_spec(dtype=own), SMOLLM2, H100) for own in ("auto", "bfloat16"))
    assert automatic == low
    assert ask(build_spec(dtype="auto"), SMOLLM2, TWO_CORES) == ask(
        build_spec(), SMOLLM2, TWO_CORES
    )
