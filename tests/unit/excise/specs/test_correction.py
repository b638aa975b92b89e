"""What a correction's spec refuses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from excise.names import GatedSet
from excise.specs import CorrectionSpec


@pytest.mark.parametrize("name", GatedSet)
def test_no_behaviour_can_take_the_name_of_a_prompt_set_of_the_gates(name: str) -> None:
    behaviour: dict[str, Any] = {"name": str(name), "kind": "repetition", "prompts": "ps_1"}
    with pytest.raises(ValidationError, match=f"has the name {name}, which the report"):
        CorrectionSpec.model_validate(
            {"kind": "correction", "model": "m", "behaviours": [behaviour], "reference": "ps_2"}
        )
