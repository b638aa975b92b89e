"""Names that a job or an operator gives are those that the core knows."""

from __future__ import annotations

from excise.names import Attributor, ComputeDtype
from workers.attribution.composites import COMPOSITES
from workers.models.devices import DTYPES


def test_the_dtypes_of_a_spec_can_be_computed_in() -> None:
    assert set(ComputeDtype) - {ComputeDtype.AUTO} == set(DTYPES)


def test_attributors_that_explain_tokens_are_those_with_a_composite() -> None:
    assert {one for one in Attributor if one.explains} == set(COMPOSITES)
