"""What a correction's spec refuses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from excise.names import GatedSet, Granularity
from excise.specs import CorrectionSpec
from excise.specs.correction import DEFAULT_LINES, ServingSpec


@pytest.mark.parametrize("name", GatedSet)
def test_no_behaviour_can_take_the_name_of_a_prompt_set_of_the_gates(name: str) -> None:
    behaviour: dict[str, Any] = {"name": str(name), "kind": "repetition", "prompts": "ps_1"}
    with pytest.raises(ValidationError, match=f"has the name {name}, which the report"):
        CorrectionSpec.model_validate(
            {"kind": "correction", "model": "m", "behaviours": [behaviour], "reference": "ps_2"}
        )


@pytest.mark.parametrize(
    ("given", "neurons", "weights"),
    [({}, None, DEFAULT_LINES), ({"max_rank": None}, None, None), ({"max_rank": 2}, 2, 2)],
)
def test_a_rank_limits_single_weights_unless_told_and_neurons_where_it_is_named(
    given: dict[str, Any], neurons: int | None, weights: int | None
) -> None:
    serving = ServingSpec.model_validate(given)
    found = [serving.find_limit(kind) for kind in (Granularity.NEURON, Granularity.WEIGHT)]
    assert found == [neurons, weights]
    assert serving.find_limit(Granularity.HEAD) is None


@pytest.mark.parametrize("wrong", [0, 513, "most"])
def test_a_rank_no_server_takes_is_refused(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        ServingSpec.model_validate({"max_rank": wrong})


def build_limited(sets: dict[str, Any]) -> CorrectionSpec:
    behaviours = [{"name": "loops", "kind": "repetition", "prompts": "ps_1"}]
    return CorrectionSpec.model_validate(
        {
            "kind": "correction",
            "model": "m",
            "behaviours": behaviours,
            "reference": "ps_2",
            "responses": {"max_length_ratio": 2.0, "sets": sets},
        }
    )


def test_single_sets_have_limits_of_their_own_and_what_they_omit_as_all() -> None:
    spec = build_limited({"loops": {"max_empty_rise": None}, "reference": {}})
    for found in (spec, CorrectionSpec.model_validate(spec.model_dump(mode="json"))):
        loops, reference = map(found.responses.limits_of, ("loops", "reference"))
        assert (loops.max_empty_rise, loops.max_length_ratio) == (None, 2.0)
        assert (reference.max_empty_rise, reference.max_length_ratio) == (0.02, 2.0)


@pytest.mark.parametrize("name", ["lops", "general"])
def test_limits_of_a_set_that_the_job_does_not_have_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValidationError, match=f"names {name}, .* one of: loops, reference") as told:
        build_limited({name: {}})
    assert ("general has its own limits" in str(told.value)) == (name == "general")
