"""Lack of memory while a circuit is scored or measured: halves, and the same figures."""

from __future__ import annotations

import pytest
import torch

from excise.names import Attributor, CircuitAblation, CircuitContrast, Granularity
from tests.tiny import as_loaded
from tests.unit.workers.circuits.build import PAD, draw_task
from workers.attribution.memory import SampleTooLargeError
from workers.circuits.faithfulness import measure_circuits
from workers.circuits.measurement import measure_rows
from workers.circuits.projections import find_projections
from workers.circuits.relevance import compute_scores

TASK = draw_task((7, 5, 6, 7))
NODES = (Granularity.NEURON, Granularity.HEAD)
WEIGHTS = (Granularity.WEIGHT,)


def fail_above(model, rows: int) -> list[int]:
    """Let the model's last layer fail on more than `rows` rows; return the sizes it saw."""
    sizes: list[int] = []

    def hook(module, args) -> None:
        sizes.append(len(args[0]))
        if sizes[-1] > rows:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.model.layers[-1].register_forward_pre_hook(hook)
    return sizes


def score(model, attributor, granularities):
    loaded = as_loaded(model, pad_id=PAD)
    projections = find_projections(loaded, granularities)
    return compute_scores(loaded, attributor, projections, TASK, CircuitContrast.ZERO)


@pytest.mark.parametrize("granularities", [NODES, WEIGHTS])
@pytest.mark.parametrize("attributor", [Attributor.ATTNLRP, Attributor.WANDA])
def test_scores_are_those_of_whole_batches(model, attributor, granularities):
    expected = score(model, attributor, granularities)
    sizes = fail_above(model, 1)
    found = score(model, attributor, granularities)
    assert 4 in sizes
    assert 1 in sizes
    for name, values in expected.items():
        scale = float(values.abs().max())
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5 * scale)


def test_measured_rows_are_those_of_whole_batches(model):
    loaded = as_loaded(model, pad_id=PAD)
    projections = find_projections(loaded, NODES)
    circuit = {
        name: torch.arange(projection.components) % 2 == 0
        for name, projection in projections.items()
    }

    def measure() -> tuple[torch.Tensor, torch.Tensor]:
        kept = measure_circuits(loaded, projections, TASK, [circuit], CircuitAblation.ZERO)
        return measure_rows(loaded, TASK.rows, TASK.metric), kept

    expected = measure()
    sizes = fail_above(model, 2)
    found = measure()
    assert sizes.count(4) == 2  # one batch of each measure, halved
    for values, whole in zip(found, expected, strict=True):
        torch.testing.assert_close(values, whole, rtol=1e-4, atol=1e-5)


def test_one_row_that_does_not_fit_is_named(model):
    fail_above(model, 0)
    with pytest.raises(SampleTooLargeError, match="does not fit into memory"):
        measure_rows(as_loaded(model, pad_id=PAD), TASK.rows, TASK.metric)
