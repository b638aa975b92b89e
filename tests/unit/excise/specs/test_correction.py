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
