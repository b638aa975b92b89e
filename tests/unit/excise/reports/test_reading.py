"""Reading reports: every kind is told, newer fields are passed over, unknown versions refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from excise.errors import UserError
from excise.names import Verdict
from excise.reports import (
    CircuitReport,
    CompressionReport,
    CorrectionReport,
    GateReport,
    Report,
    ReportError,
    read_report,
)
from tests.unit.excise.cli.fake_service import RUN, build_report
from tests.unit.excise.cli.test_circuit_summary import CIRCUIT
from tests.unit.excise.cli.test_compression_summary import COMPRESSION

GATE_RUN: dict[str, Any] = {
    "schema_version": 2,
    "outcome": "passed",
    "model": RUN["model"],
    "against": RUN["model"],
    "gates": build_report("passed")["gates"][:1],
    "not_asked": [],
    **{name: RUN[name] for name in ("dtype", "seed", "versions")},
}
EVERY: list[tuple[dict[str, Any], type[Report]]] = [
    (build_report("passed"), CorrectionReport),
    (CIRCUIT, CircuitReport),
    (COMPRESSION, CompressionReport),
    (GATE_RUN, GateReport),
]


def read(document: object) -> Report:
    return read_report(json.dumps(document).encode())


MAPPINGS = {
    *("attribution", "calibration", "counts", "modules", "rows"),
    *("scores_after", "scores_before", "timings", "versions"),
}
"""Parts whose names are not fields: of evaluators, modules, stages and packages."""


def add_everywhere(value: Any) -> Any:
    """The same with a field that nobody knows in every object of fields."""
    if isinstance(value, list):
        return [add_everywhere(item) for item in value]
    if not isinstance(value, dict):
        return value
    parts = {
        name: item if name in MAPPINGS else add_everywhere(item) for name, item in value.items()
    }
    return parts | {"a newer field": [1]}


@pytest.mark.parametrize(("document", "schema"), EVERY)
def test_the_kind_is_told_and_read_whole(document: dict[str, Any], schema: type[Report]) -> None:
    found = read(document)
    assert type(found) is schema
    dumped = found.model_dump(mode="json")
    assert {name: dumped[name] for name in document if name != "gates"} == {
        name: value for name, value in document.items() if name != "gates"
    } | {name: dumped[name] for name in ("behaviours", "search") if name in document}
    assert [gate.name for gate in found.gates] == [gate["name"] for gate in document["gates"]]


@pytest.mark.parametrize(("document", "schema"), EVERY)
def test_fields_of_a_newer_excise_are_passed_over(
    document: dict[str, Any], schema: type[Report]
) -> None:
    newer = add_everywhere(document)
    assert newer["gates"][0]["a newer field"] == [1]
    found = read(newer)
    assert type(found) is schema
    assert found == read(document)


@pytest.mark.parametrize(("document", "schema"), EVERY)
def test_what_writes_a_report_may_not_invent_fields(
    document: dict[str, Any], schema: type[Report]
) -> None:
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        schema.model_validate(document | {"invented": 1})


@pytest.mark.parametrize(("document", "schema"), EVERY)
@pytest.mark.parametrize("version", [0, 4, "3", None, True, 2.0])
def test_unknown_versions_are_refused_by_number(
    document: dict[str, Any], schema: type[Report], version: object
) -> None:
    with pytest.raises(ReportError, match=f"schema version {version}; this version") as caught:
        read(document | {"schema_version": version})
    assert isinstance(caught.value, UserError)


@pytest.mark.parametrize("change", [{"passed": False}, {"value": None}])
def test_a_pass_that_the_gates_do_not_give_is_refused(change: dict[str, Any]) -> None:
    (gate,) = GATE_RUN["gates"]
    with pytest.raises(ReportError, match="outcome is passed, and its gates are not met: effect"):
        read(GATE_RUN | {"gates": [gate, gate | change]})


def test_an_outcome_of_a_gate_run_that_the_gates_do_not_give_is_refused() -> None:
    with pytest.raises(ReportError, match=r"outcome is gates_not_met, .* all met"):
        read(GATE_RUN | {"outcome": "gates_not_met"})
    with pytest.raises(ReportError, match="outcome is passed, and its gates are 0"):
        read(GATE_RUN | {"gates": []})
    assert read(GATE_RUN | {"outcome": "gates_not_met", "gates": []})


def test_a_correction_of_version_2_is_read_without_what_it_did_not_say() -> None:
    document = build_report("rejected") | {"schema_version": 2}
    for behaviour in document["behaviours"]:
        for evaluator in behaviour["evaluators"]:
            for measure in evaluator["measures"]:
                del measure["effect"]
    step = {
        "origin": "round 1", "granularity": "neuron", "components": 8, "first_layer": 0,
        "last_layer": None, "cost_weight": 1.0, "ablation": "zero", "gains": {}, "gain": 0.1,
        "perplexity": 20.0, "perplexity_increase": 0.01, "kl": 0.01, "within_budget": True,
        "on_front": True, "chosen": True,
    }  # fmt: skip
    found = read(document | {"search": [step]})
    assert isinstance(found, CorrectionReport)
    assert (found.schema_version, found.verdict) == (2, Verdict.REJECTED)
    assert found.behaviours[0].evaluators[0].measures[0].effect is None
    assert (found.search[0].bound_by, found.abilities) == ("", [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"kind": "poem", "schema_version": 1}', "the kind 'poem', which"),
        (b'{"kind": ["circuit"], "schema_version": 1}', "which this version of Excise"),
        (b'{"schema_version": 3}', "verdict: Field required"),
        (b'{"schema_version": 3, "verdict": "\\u001b[31m"}', "verdict: Input should be"),
    ],
)
def test_what_is_no_report_is_refused_in_a_sentence(content: bytes, message: str) -> None:
    with pytest.raises(ReportError) as caught:
        read_report(content)
    assert message in caught.value.message
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 300


def test_a_text_that_is_no_valid_unicode_is_read() -> None:
    document = build_report("passed") | {"reason": "half a pair: \ud800"}
    found = read(document)
    assert isinstance(found, CorrectionReport)
    assert found.reason == "half a pair: \ud800"
