"""Stage 3 of a circuit job: measure the chosen circuit on rows that were not used to choose it."""

from __future__ import annotations

import torch

from excise.names import CircuitAblation, Granularity
from workers.circuits.discovery import share_positive
from workers.circuits.faithfulness import KeepMask, measure_circuits
from workers.circuits.measurement import measure_rows
from workers.circuits.projections import find_projections
from workers.domain import Selection
from workers.families import linear_weight
from workers.kinds.circuit.results import CircuitValidation, DiscoveredCircuit, PreparedCircuit
from workers.progress import Advance, Counter, Progress, count_alike
from workers.stages.context import StageContext, StageOutput
from workers.stages.inputs import CircuitInputs


def run(
    context: StageContext,
    inputs: CircuitInputs,
    prepared: PreparedCircuit,
    found: DiscoveredCircuit,
    upstream: StageOutput,
) -> StageOutput:
    """Return the stage's result, a `CircuitValidation`."""
    key = {"discover": upstream.sha256, "ablation": inputs.spec.chosen_ablation}
    return context.run_stage(
        "validate", key, lambda progress: _work(inputs, prepared, found, progress)
    )


def _work(
    inputs: CircuitInputs,
    prepared: PreparedCircuit,
    found: DiscoveredCircuit,
    progress: Progress,
) -> bytes:
    assert found.outside is not None
    task = prepared.build_task(prepared.held_out)
    counter = Counter(progress, [count_alike("rows", 3 * len(task.rows))])
    whole = measure_rows(inputs.base, task.rows, task.metric)
    counter(len(task.rows))
    outside = found.outside.to_selection()
    kept = _measure(
        inputs, prepared, outside, CircuitAblation(inputs.spec.chosen_ablation), counter
    )
    zeroed = _measure(inputs, prepared, outside, CircuitAblation.ZERO, counter)
    counter.finish()
    return CircuitValidation(
        whole_metric=_mean(whole),
        metric=_mean(kept),
        accuracy=share_positive(kept),
        zero_metric=_mean(zeroed),
    ).to_bytes()


def _measure(
    inputs: CircuitInputs,
    prepared: PreparedCircuit,
    outside: Selection,
    ablation: CircuitAblation,
    advance: Advance,
) -> torch.Tensor:
    """Return the circuit's metric on every held-out row, `(row,)`."""
    projections = find_projections(inputs.base, (outside.granularity,))
    measured = measure_circuits(
        inputs.base,
        projections,
        prepared.build_task(prepared.held_out),
        [_build_keep_mask(inputs, outside)],
        ablation,
        mean_rows=prepared.build_task(prepared.discovery).rows,
        advance=advance,
    )
    return measured[0]


def _build_keep_mask(inputs: CircuitInputs, outside: Selection) -> KeepMask:
    """Return module → mask that is True for every component not in `outside`."""
    masks = {}
    for name, projection in find_projections(inputs.base, (outside.granularity,)).items():
        keep_mask = torch.ones(projection.components, dtype=torch.bool)
        keep_mask[outside.indices.get(name, torch.empty(0, dtype=torch.int64))] = False
        is_weight = outside.granularity is Granularity.WEIGHT
        masks[name] = (
            keep_mask.view(linear_weight(projection.module).shape) if is_weight else keep_mask
        )
    return masks


def _mean(values: torch.Tensor) -> float:
    return float(values.double().mean())
