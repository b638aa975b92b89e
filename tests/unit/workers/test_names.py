"""Names that a job or an operator gives are those that the core knows."""

from __future__ import annotations

from typing import get_args

from excise.names import Attributor, ComputeDtype
from workers.attribution.accumulation import SumsPlace
from workers.attribution.composites import COMPOSITES
from workers.models.devices import DTYPES
from workers.settings import WorkerSettings


def test_the_dtypes_of_a_spec_can_be_computed_in() -> None:
    assert set(ComputeDtype) == set(DTYPES)


def test_attributors_that_explain_tokens_are_those_with_a_composite() -> None:
    assert {one for one in Attributor if one.explains} == set(COMPOSITES)


def test_the_places_an_operator_may_choose_are_all_that_there_are() -> None:
    annotation = WorkerSettings.model_fields["relevance_storage"].annotation
    assert set(get_args(annotation)) == set(SumsPlace)
