"""A compression's spec and its plan refuse the same combinations."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import pytest

from excise.names import Attributor, Calibration
from excise.specs.compression import CompressionSpec
from workers.compression.plan import CompressionPlan, RowShare
from workers.kinds.compression.compress import build_plan


def build_spec(**changes: Any) -> CompressionSpec:
    return CompressionSpec.model_validate(
        {
            "kind": "compression",
            "model": "m",
            "calibration": {"prompts": "ps_1"},
            "perplexity": {"prompts": "ps_2"},
            **changes,
        }
    )


@pytest.mark.parametrize(("attributor", "sequential"), list(product(Attributor, (False, True))))
def test_what_the_spec_takes_the_plan_takes_and_nothing_else(
    attributor: Attributor, sequential: bool
) -> None:
    calibration = Calibration.SEQUENTIAL if sequential else Calibration.ONE_SHOT
    changes = {"method": attributor.value, "sequential": sequential}
    try:
        expected = CompressionPlan(attributor, RowShare(0.5), calibration=calibration)
    except ValueError:
        with pytest.raises(ValueError, match=r"cp_lrp|sequential"):
            build_spec(**changes)
    else:
        assert build_plan(SimpleNamespace(spec=build_spec(**changes))) == expected
