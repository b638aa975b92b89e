"""How much of a task a circuit keeps, by the measures of the MIB benchmark.

Everything outside the circuit is ablated while the model reads the clean prompt. MIB (arXiv
2504.13151, section 3) defines faithfulness as f(C) = (m(C) − m(∅)) / (m(N) − m(∅)), where N is the
whole model and ∅ the empty circuit, and integrates it over the circuit's share of components: CPR
is the area under the curve, CMD the area between the curve and 1. Its published code
(`evaluate_area_under_curve`, `log_scale=False`) uses the trapezoidal rule on a linear axis,
between the shares below, so a perfect circuit scores CPR 0.999 and CMD 0. The code can rank by
signed or by absolute scores: signed ranks raise CPR (components that act against the answer are
dropped), absolute ranks suit CMD, so every figure must state its order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import nn

from excise.names import CircuitAblation
from workers.circuits.measurement import (
    RowBatch,
    compute_last_states,
    compute_metric,
    measure_rows,
    run_row_batches,
)
from workers.circuits.projections import (
    Projection,
    has_weights,
    read_inputs,
    replaced_inputs,
    spread_to_features,
)
from workers.circuits.tasks import Task, TaskRow
from workers.domain import TokenSequence
from workers.models.devices import find_device
from workers.models.loaded import LoadedModel
from workers.progress import Advance, ignore
from workers.pruning.means import compute_mean_inputs

KeepMask = Mapping[str, torch.Tensor]
"""Module name → bool tensor, True at the components that the circuit keeps."""

MIB_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Circuit sizes of the MIB benchmark, as shares of all components."""


class UndefinedFaithfulnessError(ArithmeticError):
    """The empty circuit does the task as well as the whole model; choose another ablation."""


def compute_faithfulness(circuit: float, empty: float, whole: float) -> float:
    """Return (m(C) − m(∅)) / (m(N) − m(∅)): 0 for the empty circuit, 1 for the whole model.

    It can leave [0, 1]: a circuit may do better than the whole model or worse than the empty
    circuit. Raises `UndefinedFaithfulnessError` if m(N) = m(∅).
    """
    if whole == empty:
        raise UndefinedFaithfulnessError(
            f"the metric is {whole:g} with and without every component, so no circuit can be "
            "told from another; choose another ablation, granularity or task"
        )
    return (circuit - empty) / (whole - empty)


def compute_cpr(shares: Sequence[float], faithfulness: Sequence[float]) -> float:
    """Return the area under the faithfulness curve (MIB's CPR); larger is better.

    Trapezoidal rule on a linear axis, from the first to the last of the ascending `shares`.
    Raises `ValueError` if they do not ascend.
    """
    return _integrate(shares, faithfulness)


def compute_cmd(shares: Sequence[float], faithfulness: Sequence[float]) -> float:
    """Return the area between the faithfulness curve and 1 (MIB's CMD); smaller is better.

    As in MIB's code, the distance |1 − f| is computed at the shares and then integrated. Raises
    `ValueError` if the shares do not ascend.
    """
    return _integrate(shares, [abs(1.0 - value) for value in faithfulness])


def _integrate(positions: Sequence[float], values: Sequence[float]) -> float:
    points = list(zip(positions, values, strict=True))
    if any(one[0] >= other[0] for one, other in pairwise(points)):
        raise ValueError("the shares of a curve must ascend; sort the points and drop repeats")
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(points))


@torch.no_grad()
def measure_circuits(
    loaded: LoadedModel,
    projections: Mapping[str, Projection],
    task: Task,
    circuits: Iterable[KeepMask],
    ablation: CircuitAblation,
    *,
    mean_rows: Sequence[TaskRow] = (),
    batch_tokens: int = 1024,
    advance: Advance = ignore,
) -> torch.Tensor:
    """Return the task metric of every circuit on every row, `(circuit, row)` on the CPU.

    Components of `projections` outside a circuit are ablated at all positions; the rest of the
    model is unchanged. Mean ablation uses means over the clean prompts of `mean_rows`. `circuits`
    may be lazy, because masks of single weights are as large as the model. `advance` is called
    with the number of rows of each batch, once per circuit. Raises `ValueError` for masks whose
    modules or shapes are not those of `projections`, for mean ablation without rows, and for
    weights that are to be ablated by anything but zero.
    """
    if has_weights(projections):
        if ablation is not CircuitAblation.ZERO:
            raise ValueError("weights are ablated by zero; set ablation to zero")
        return _measure_weight_circuits(loaded, projections, task, circuits, batch_tokens, advance)
    asked = list(circuits)
    _check_masks(projections, asked)
    means: Mapping[str, torch.Tensor] = {}
    if ablation is CircuitAblation.MEAN:
        modules = {name: projection.module for name, projection in projections.items()}
        prompts = [TokenSequence(row.clean_ids) for row in mean_rows]
        means = compute_mean_inputs(loaded, modules, prompts, batch_tokens=batch_tokens)
    kept = [_spread_masks(projections, circuit) for circuit in asked]
    measured = torch.empty(len(asked), len(task.rows))

    def step(batch: RowBatch) -> None:
        others = _find_replacements(loaded, projections, batch, ablation, means)
        for number, masks in enumerate(kept):
            with replaced_inputs(projections, _blend(masks, others)):
                states = compute_last_states(loaded, batch.clean_ids, batch.last)
            values = compute_metric(loaded, states, batch.rows, task.metric)
            measured[number, list(batch.sample_indices)] = values.cpu()
            advance(len(batch.rows))

    run_row_batches(loaded, task.rows, batch_tokens, step)
    return measured


def _check_masks(projections: Mapping[str, Projection], circuits: Sequence[KeepMask]) -> None:
    for circuit in circuits:
        if circuit.keys() != projections.keys():
            raise ValueError("a circuit's masks must be of exactly the modules measured")
        for name, projection in projections.items():
            if circuit[name].shape != (projection.components,):
                raise ValueError(f"the mask of {name} needs {projection.components} components")


def _spread_masks(
    projections: Mapping[str, Projection], circuit: KeepMask
) -> dict[str, torch.Tensor]:
    """Return module → keep mask over input features, `(feature,)`, on the module's device."""
    devices = {name: find_device(projection.module) for name, projection in projections.items()}
    return {
        name: spread_to_features(circuit[name].to(devices[name]), projection.width)
        for name, projection in projections.items()
    }


def _find_replacements(
    loaded: LoadedModel,
    projections: Mapping[str, Projection],
    batch: RowBatch,
    ablation: CircuitAblation,
    means: Mapping[str, torch.Tensor],
) -> Mapping[str, torch.Tensor]:
    if ablation is CircuitAblation.COUNTERFACTUAL:
        return read_inputs(loaded, projections, batch.corrupted_ids)
    if ablation is CircuitAblation.MEAN:
        return means
    return {name: torch.zeros((), device=batch.clean_ids.device) for name in projections}


def _blend(
    masks: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]
) -> Callable[[str, torch.Tensor], torch.Tensor]:
    def replace(name: str, values: torch.Tensor) -> torch.Tensor:
        return torch.where(masks[name], values, others[name].to(values))

    return replace


@contextmanager
def only_weights(projections: Mapping[str, Projection], circuit: KeepMask) -> Iterator[None]:
    """Within the context, all weights of the circuit's modules outside the circuit are zero.

    Masks have the shape of the stored weights. The original weights are never written to: a
    masked copy replaces them, and they are back on exit, even if the body raises.
    """
    originals = {name: projections[name].module.weight for name in circuit}
    try:
        for name, keep_mask in circuit.items():
            weight = originals[name]
            assert isinstance(weight, nn.Parameter)
            masked = torch.where(keep_mask.to(weight.device), weight.detach(), 0.0)
            projections[name].module.weight = nn.Parameter(
                masked, requires_grad=weight.requires_grad
            )
        yield
    finally:
        for name, weight in originals.items():
            projections[name].module.weight = weight


def _measure_weight_circuits(
    loaded: LoadedModel,
    projections: Mapping[str, Projection],
    task: Task,
    circuits: Iterable[KeepMask],
    batch_tokens: int,
    advance: Advance,
) -> torch.Tensor:
    """Return the task metric of circuits of single weights, `(circuit, row)` on the CPU."""
    measured: list[torch.Tensor] = []
    for circuit in circuits:
        with only_weights(projections, circuit):
            values = measure_rows(loaded, task.rows, task.metric, batch_tokens=batch_tokens)
        measured.append(values)
        advance(len(task.rows))
    return torch.stack(measured)
