"""Names that a job or an operator gives are those that the core knows."""

from __future__ import annotations

from typing import get_args

from excise.specs.common import ComputeDtype
from workers.attribution.accumulation import SumsPlace
from workers.models.devices import DTYPES
from workers.settings import WorkerSettings


def test_the_dtypes_of_a_spec_can_be_computed_in() -> None:
    assert set(get_args(ComputeDtype)) == set(DTYPES)


def test_the_places_an_operator_may_choose_are_all_that_there_are() -> None:
    annotation = WorkerSettings.model_fields["relevance_storage"].annotation
    assert set(get_args(annotation)) == set(SumsPlace)
