"""How many components a job's search may prune, and how many trials it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from excise.names import Granularity, SearchPreset
from workers.correction.amounts import find_range
from workers.correction.results import PreparedCorrection
from workers.correction.search import DEFAULT_ROUNDS
from workers.stages.inputs import CorrectionInputs

THOROUGH_TRIALS = 24
"""Number of trials after the rounds if a thorough job does not give one. Chosen by hand; not
measured.
"""


def find_ranges(
    inputs: CorrectionInputs, prepared: PreparedCorrection
) -> dict[Granularity, tuple[int, int]]:
    """Return the smallest and largest number of components per granularity that a trial prunes."""
    refines = count_refinements(inputs) > 0
    return {
        kind: find_range(
            list_amounts(inputs, kind), kind, prepared.components[kind], refines=refines
        )
        for kind in inputs.granularities
    }


def list_amounts(inputs: CorrectionInputs, granularity: Granularity) -> list[int] | None:
    """Return the amounts that the job gives, or None."""
    given: Any = inputs.spec.search.amounts
    if isinstance(given, Mapping):
        given = given.get(granularity.value)
    return None if given is None else list(given)


def count_rounds(inputs: CorrectionInputs) -> int:
    """Return the largest number of rounds per granularity."""
    return inputs.spec.search.rounds or DEFAULT_ROUNDS


def count_refinements(inputs: CorrectionInputs) -> int:
    """Return the number of trials that follow the rounds."""
    search = inputs.spec.search
    return 0 if search.preset == SearchPreset.QUICK else search.trials or THOROUGH_TRIALS
