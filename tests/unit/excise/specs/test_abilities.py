"""What a spec may ask of abilities: limits by slice, and what the search protects."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from excise.names import BudgetLimit
from excise.specs import CorrectionSpec
from excise.specs.abilities import (
    DEFAULT_ACCURACY_FALL,
    DEFAULT_NATS_RISE,
    AbilitiesGateSpec,
    ProtectSpec,
    SliceLimitsSpec,
)
from excise.specs.gates import GatesSpec

MINIMAL: dict[str, Any] = {
    "kind": "correction",
    "model": "tiny",
    "behaviours": [{"name": "r", "kind": "repetition", "prompts": "ps_1"}],
    "reference": "ps_2",
}


def parse(**changes: Any) -> CorrectionSpec:
    return CorrectionSpec.model_validate({**MINIMAL, **changes})


def test_abilities_are_gated_and_protected_unless_told_otherwise() -> None:
    spec = parse()
    assert spec.gates.abilities == AbilitiesGateSpec(
        max_nats_rise=0.10, max_accuracy_fall=0.05, slices={}
    )
    assert spec.protect == ProtectSpec(abilities=True, sets=[])
    assert (DEFAULT_NATS_RISE, DEFAULT_ACCURACY_FALL) == (0.10, 0.05)
    assert GatesSpec.model_validate({"kl": {}}).abilities == AbilitiesGateSpec()


def test_who_insists_gets_neither() -> None:
    spec = parse(gates={"abilities": None}, protect=None)
    assert spec.gates.abilities is None
    assert spec.protect is None
    assert CorrectionSpec.model_validate(spec.model_dump(mode="json")) == spec


def test_a_slice_has_the_limits_of_its_own_name_else_those_of_all() -> None:
    gate = AbilitiesGateSpec.model_validate(
        {
            "max_nats_rise": 0.2,
            "max_accuracy_fall": None,
            "slices": {"words": {"max_accuracy_fall": 0.01}, "lists": {"max_nats_rise": None}},
        }
    )
    other = gate.limits_of("json")
    assert (other.max_nats_rise, other.max_accuracy_fall) == (0.2, None)
    # What a slice's own limits leave out is that of all slices, not the default.
    assert gate.limits_of("words") == SliceLimitsSpec(max_nats_rise=0.2, max_accuracy_fall=0.01)
    assert gate.limits_of("lists") == SliceLimitsSpec(max_nats_rise=None, max_accuracy_fall=None)
    assert AbilitiesGateSpec.model_validate(gate.model_dump(mode="json")) == gate
    lax = AbilitiesGateSpec.model_validate({"slices": {"words": {}}})
    assert lax.limits_of("words") == SliceLimitsSpec()


def test_sets_of_a_team_s_own_have_a_limit_each() -> None:
    sets = [
        {"name": "contracts", "prompts": "ps_3"},
        {"name": "letters", "prompts": "ps_3", "max_nats_rise": 0.02},
    ]
    asked = parse(protect={"abilities": False, "sets": sets}).protect
    assert asked is not None
    assert not asked.abilities
    assert [(own.name, own.max_nats_rise) for own in asked.sets] == [
        ("contracts", DEFAULT_NATS_RISE),
        ("letters", 0.02),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sets": [{"name": "a", "prompts": "p"}] * 2}, "names a set twice"),
        ({"sets": [{"name": "kl", "prompts": "p"}]}, "has the name kl, which is also a limit"),
        ({"sets": [{"name": "perplexity", "prompts": "p"}]}, "has the name perplexity"),
        ({"sets": [{"name": "A b", "prompts": "p"}]}, "pattern"),
        ({"sets": [{"name": "a", "prompts": "p", "max_nats_rise": 0}]}, "greater than 0"),
        ({"sets": [{"name": f"s{n}", "prompts": "p"} for n in range(17)]}, "at most 16"),
        ({"abilitys": True}, "Extra inputs"),
    ],
)
def test_protection_that_says_nothing_clear_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        parse(protect=changes)


@pytest.mark.parametrize("name", BudgetLimit)
def test_no_set_can_take_the_name_of_a_limit_on_text_as_a_whole(name: str) -> None:
    with pytest.raises(ValidationError, match=f"has the name {name}, which is also a limit"):
        parse(protect={"sets": [{"name": str(name), "prompts": "ps_3"}]})


@pytest.mark.parametrize(
    "changes",
    [
        {"max_nats_rise": -0.1},
        {"max_accuracy_fall": 1.1},
        {"slices": {"": {}}},
        {"slices": {"words": {"max_rise": 1}}},
        {"slices": {"words": None}},
        {"limit": 1},
    ],
)
def test_limits_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        parse(gates={"abilities": changes})


def test_protected_texts_are_sets_that_a_job_names() -> None:
    own = {"sets": [{"name": "invoices", "prompts": "ps_3"}]}
    uses = {use.field: use for use in parse(protect=own).list_prompt_sets()}
    assert uses["protect.sets[0].prompts"].prompt_set_id == "ps_3"
    assert uses["protect.sets[0].prompts"].least == 2
    assert "protect.sets[0].prompts" not in {use.field for use in parse().list_prompt_sets()}
    assert len(list(parse(protect=None).list_prompt_sets())) == 2
