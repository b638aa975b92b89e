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
from tests.unit.excise.cli.test_correction_summary import build_ability

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


def build_gate(**fields: Any) -> dict[str, Any]:
    return {**build_report("passed")["gates"][0], **fields}


def change(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """The document with another value at a path such as `gates.0.value`."""
    copy: dict[str, Any] = json.loads(json.dumps(document))
    *parents, last = (int(part) if part.isdecimal() else part for part in path.split("."))
    place: Any = copy
    for part in parents:
        place = place[part]
    place[last] = value
    return copy


JUDGED = {"value": 0.5, "limit": 0.1, "bound": "at_least", "passed": True}
REJECTED = build_report("rejected")
CUT = {"subject": "x", "max_new_tokens": 8, "responses": 4, "before": 5, "after": 0}
LOST = build_ability("count on", 1.0, 0.0, within=False)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (REJECTED | {"verdict": "passed"}, "verdict is passed, and its gates are not met: kl"),
        (build_report("passed") | {"verdict": "rejected"}, "verdict is rejected, .* 2, all met"),
        (change(CIRCUIT, "gates.0.passed", False), "verdict is passed, and its gates are not met"),
        (COMPRESSION | {"verdict": "passed"}, "verdict is passed, and its gates are not met"),
        (change(REJECTED, "gates.1.passed", True), r"gates\[1\].passed of kl is true, .* no value"),
        (
            change(build_report("passed"), "gates.0", build_gate(**JUDGED | {"value": 0.05})),
            r"gates\[0\].passed of effect is true, .* 0.05, where at least 0.1 is asked for",
        ),
        (
            change(REJECTED, "gates.0", build_gate(**JUDGED | {"passed": False})),
            r"gates\[0\].passed of effect is false, and its value is 0.5",
        ),
        (
            REJECTED | {"abilities": [LOST | {"within": True}]},
            r"abilities\[0\].within of slice is true, and it falls by more than it may",
        ),
        (
            GATE_RUN | {"abilities": [LOST], "gates": [build_gate(name="abilities", value=0.0)]},
            r"gates\[0\].value of abilities is 0, and 1 slice of abilities fell by more",
        ),
        (
            change(REJECTED, "patch.counts", {"model.layers.0": 11}),
            "patch.components is 12, and patch.counts do not add up to it",
        ),
        (change(CIRCUIT, "circuit.kept", 10_001), "circuit.kept is 10001 of 10000"),
        (
            REJECTED | {"token_limits": [CUT]},
            r"token_limits\[0\] counts more answers than there are",
        ),
    ],
)
def test_a_report_that_contradicts_itself_is_refused(document: dict[str, Any], words: str) -> None:
    with pytest.raises(ReportError, match=f"contradicts itself: {words}"):
        read(document)


def test_figures_at_their_limits_contradict_nothing() -> None:
    gate = build_gate(**JUDGED | {"value": 0.1})
    fall = build_ability("quote", 48 / 60, 45 / 60)
    assert read(change(build_report("passed") | {"abilities": [fall]}, "gates.0", gate))


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_figures_that_are_not_finite_are_refused_by_name(number: str) -> None:
    gate = json.dumps(build_gate(value="here"))
    content = json.dumps(GATE_RUN | {"gates": ["there"]}).replace('"there"', gate)
    with pytest.raises(ReportError, match=r"report.gates\[0\].value is not a finite number"):
        read_report(content.replace('"here"', number).encode())
    ability = json.dumps(LOST).replace("0.02", number)
    content = json.dumps(REJECTED | {"abilities": ["there"]}).replace('"there"', ability)
    with pytest.raises(ReportError, match=r"report.abilities\[0\].nats_interval\[1\] is not a"):
        read_report(content.encode())


def test_a_field_that_is_given_twice_is_refused() -> None:
    content = json.dumps(REJECTED | {"verdict": "passed"})
    with pytest.raises(ReportError, match="the key 'verdict' is given twice"):
        read_report(content.replace("{", '{"verdict": "rejected", ', 1).encode())
