"""Specs of circuit and compression jobs: defaults, contradictions, and errors that help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from excise.specs import SPECS, CircuitSpec, CompressionSpec, parse_spec
from service.errors import InvalidRequestError
from service.problems import translate_validation_errors
from tests.unit.service.test_schemas import JSON
from tests.unit.service.test_schemas import MINIMAL as CORRECTION

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
PROMPT_SET = "ps_" + "0" * 24
CIRCUIT: dict[str, Any] = {"kind": "circuit", "model": "tiny", "task": "ioi"}
COMPRESSION: dict[str, Any] = {
    "kind": "compression",
    "model": "tiny",
    "calibration": {"prompts": "ps_1"},
    "perplexity": {"prompts": "ps_2"},
}
MINIMAL = {"correction": CORRECTION, "circuit": CIRCUIT, "compression": COMPRESSION}


def explain(document: dict[str, Any]) -> InvalidRequestError:
    with pytest.raises(ValidationError) as caught:
        parse_spec(document)
    return translate_validation_errors(caught.value.errors())  # type: ignore[arg-type]


def test_every_kind_has_stages_that_end_with_the_files() -> None:
    assert set(SPECS) == set(MINIMAL)
    for spec in SPECS.values():
        stages = list(spec.stages)
        assert (stages[0], stages[-1]) == ("prepare", "package")


@pytest.mark.parametrize("kind", SPECS)
def test_a_minimal_spec_survives_the_database(kind: str) -> None:
    spec = parse_spec(MINIMAL[kind])
    assert spec.kind == kind
    assert parse_spec(json.loads(json.dumps(spec.model_dump(mode="json")))) == spec


def test_defaults_of_a_circuit() -> None:
    spec = parse_spec(CIRCUIT)
    assert isinstance(spec, CircuitSpec)
    assert spec.attributors == ["attnlrp", "gradient_x_input", "wanda", "random"]
    assert (spec.granularity, spec.shares) == ("neuron", None)
    assert (spec.ablation, spec.chosen_ablation) == (None, "counterfactual")
    assert (spec.threshold, spec.max_share, spec.rows) == (0.9, 0.5, 72)


@pytest.mark.parametrize(
    ("ablation", "order"),
    [("counterfactual", "signed"), ("mean", "absolute"), ("zero", "absolute")],
)
def test_the_order_follows_the_ablation_unless_one_is_given(ablation: str, order: str) -> None:
    spec = parse_spec({**CIRCUIT, "ablation": ablation})
    assert isinstance(spec, CircuitSpec)
    assert (spec.order, spec.chosen_order) == (None, order)
    for chosen in ("signed", "absolute"):
        other = parse_spec({**CIRCUIT, "ablation": ablation, "order": chosen})
        assert isinstance(other, CircuitSpec)
        assert other.chosen_order == chosen


def test_single_weights_take_the_only_ablation_there_is() -> None:
    spec = parse_spec({**CIRCUIT, "granularity": "weight"})
    assert isinstance(spec, CircuitSpec)
    assert (spec.chosen_ablation, spec.chosen_order) == ("zero", "absolute")


def test_defaults_of_a_compression() -> None:
    spec = parse_spec(COMPRESSION)
    assert isinstance(spec, CompressionSpec)
    assert (spec.method, spec.pattern, spec.target_sparsity) == ("attnlrp", "unstructured", 0.5)
    assert spec.budget.perplexity_increase is None
    assert spec.tasks == []


@pytest.mark.parametrize("granularity", ["neuron", "head", "weight"])
def test_a_correction_takes_every_granularity_and_wanda(granularity: str) -> None:
    attribution = {"granularity": granularity, "attributor": "wanda"}
    assert parse_spec({**CORRECTION, "attribution": attribution}).kind == "correction"


@pytest.mark.parametrize(
    ("base", "change", "param", "says"),
    [
        (CIRCUIT, {"task": "riddles"}, "task", "ioi, greater_than"),
        (CIRCUIT, {"task": 7}, "task", "a string"),
        (CIRCUIT, {"attributors": []}, "attributors", "too few"),
        (CIRCUIT, {"attributors": ["wanda", "wanda"]}, "attributors", "twice"),
        (CIRCUIT, {"attributors": ["magic"]}, "attributors[0]", "attnlrp"),
        (CIRCUIT, {"order": "ascending"}, "order", "signed"),
        (CIRCUIT, {"shares": [0.2, 0.1]}, "shares", "ascending"),
        (CIRCUIT, {"shares": [1.0]}, "shares[0]", "below 1"),
        (CIRCUIT, {"threshold": 1.5}, "threshold", "the limit is 1"),
        (CIRCUIT, {"rows": 3}, "rows", "the least is 12"),
        (CIRCUIT, {"granularity": "weight", "ablation": "mean"}, "body", "Set ablation to zero"),
        (CIRCUIT, {"reference": "ps_1"}, "reference", "not a known field"),
        (COMPRESSION, {"pattern": "3:4"}, "pattern", "2:4"),
        (COMPRESSION, {"pattern": "2:4", "sparsity": 0.5}, "body", "Remove sparsity"),
        (COMPRESSION, {"method": "random", "sequential": True}, "body", "Set it to false"),
        (COMPRESSION, {"method": "cp_lrp"}, "method", "Use attnlrp"),
        (COMPRESSION, {"sparsity": 1.0}, "sparsity", "below 1"),
        (COMPRESSION, {"calibration": {"prompts": "a", "samples": 0}}, "calibration.samples", "1"),
        (COMPRESSION, {"tasks": [{"name": "chess"}]}, "tasks[0].name", "boolq"),
        (COMPRESSION, {"tasks": [{"name": "rte"}, {"name": "rte"}]}, "tasks", "twice"),
        (COMPRESSION, {"perplexity": None}, "perplexity", "must be an object"),
        (COMPRESSION, {"budget": {"perplexity_increase": -1}}, "budget.perplexity_increase", "0"),
        ({"kind": "miracle"}, {}, "kind", "correction, circuit, compression"),
    ],
)
def test_errors_name_the_field_the_limit_and_the_remedy(
    base: dict[str, Any], change: dict[str, Any], param: str, says: str
) -> None:
    error = explain(base | change)
    assert error.param == param
    assert says in error.message


@settings(deadline=None)
@given(st.sampled_from([CIRCUIT, COMPRESSION]), st.data(), JSON)
def test_any_broken_spec_gives_one_short_error(
    base: dict[str, Any], data: st.DataObject, value: object
) -> None:
    field = data.draw(st.sampled_from([*base, "shares", "tasks", "budget", "metadata", "new"]))
    try:
        parse_spec({**base, field: value})
    except ValidationError as caught:
        error = translate_validation_errors(caught.errors())  # type: ignore[arg-type]
        assert error.param
        assert len(error.message) < 600
        assert error.param.encode("utf-8")


@pytest.mark.parametrize("name", ["repetition", "circuit", "compression"])
def test_the_examples_are_valid(name: str) -> None:
    text = (EXAMPLES / f"{name}.job.json").read_text()
    assert parse_spec(json.loads(text)).model == "smollm2-135m-instruct"
