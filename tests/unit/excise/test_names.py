"""The names that both sides speak: each says what it means, and strings still spell them."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import excise.names
from excise.names import Attributor, CircuitAblation, GateBound, Granularity, JobKind
from excise.names.name import Name
from excise.specs import SPECS, CircuitSpec, parse_spec

PATHS = sorted(Path(excise.names.__file__).parent.glob("*.py"))
ENUMS = [one for one in vars(excise.names).values() if isinstance(one, type)]
SPEC: dict[str, Any] = {
    "kind": "circuit",
    "model": "tiny",
    "task": "ioi",
    "granularity": "head",
    "attributors": ["wanda", "random"],
    "ablation": "mean",
}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.name)
def test_every_name_has_a_sentence(path: Path) -> None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            assert (ast.get_docstring(node) or "").endswith("."), node.name
            for member, after in zip(node.body, [*node.body[1:], None], strict=True):
                if isinstance(member, ast.Assign):
                    name = f"{node.name}.{ast.unparse(member.targets[0])}"
                    assert isinstance(after, ast.Expr), name
                    assert isinstance(after.value, ast.Constant), name
                    assert str(after.value.value).strip().endswith("."), name


def test_all_that_is_public_is_listed() -> None:
    assert all(issubclass(one, Name) for one in ENUMS)
    assert {one.__name__ for one in ENUMS} <= set(excise.names.__all__)
    assert all(hasattr(excise.names, name) for name in excise.names.__all__)
    assert set(SPECS) == set(JobKind)


def test_strings_spell_the_names_of_a_spec_whichever_way_they_come() -> None:
    spec = parse_spec(SPEC)
    assert isinstance(spec, CircuitSpec)
    assert spec.kind is JobKind.CIRCUIT
    assert spec.granularity is Granularity.HEAD
    assert spec.attributors == [Attributor.WANDA, Attributor.RANDOM]
    assert spec.chosen_ablation is CircuitAblation.MEAN
    assert CircuitSpec.model_validate_json(json.dumps(SPEC)) == spec
    assert parse_spec(spec.model_dump()) == spec


def test_a_name_looks_like_the_string_that_it_is() -> None:
    assert f"{Granularity.HEAD} {[Granularity.HEAD]}" == "head ['head']"


def test_a_spec_says_its_names_as_the_strings_that_spell_them() -> None:
    spec = parse_spec(SPEC)
    dumped = spec.model_dump(mode="json")
    assert {key: dumped[key] for key in SPEC} == SPEC
    assert type(dumped["granularity"]) is str
    assert json.dumps(spec.model_dump(), sort_keys=True) == json.dumps(dumped, sort_keys=True)


@pytest.mark.parametrize("value", ["neurons", "NEURON", 1, None, True, ["neuron"], {}])
def test_what_is_no_name_is_refused_with_those_there_are(value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        parse_spec({**SPEC, "granularity": value})
    (error,) = caught.value.errors()
    assert error["loc"] == ("circuit", "granularity")
    assert error["ctx"]["expected"] == "'neuron', 'head' or 'weight'"


@pytest.mark.parametrize(
    ("bound", "met"),
    [
        (GateBound.AT_MOST, (True, True, False)),
        (GateBound.AT_LEAST, (False, True, True)),
        (GateBound.ABOVE, (False, False, True)),
    ],
)
def test_bounds_hold_on_their_side_and_never_for_nan(bound: GateBound, met: tuple[bool]) -> None:
    assert tuple(bound.is_met(value, 1.0) for value in (0.5, 1.0, 1.5)) == met
    assert not bound.is_met(float("nan"), 1.0)
