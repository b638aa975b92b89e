from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from excise.names import CircuitAblation, Granularity
from tests.tiny import MODULES, NEURONS, as_loaded, weight_bytes
from tests.unit.workers.circuits.build import PAD, draw_task
from workers.circuits.faithfulness import (
    MIB_SHARES,
    UndefinedFaithfulnessError,
    compute_cmd,
    compute_cpr,
    compute_faithfulness,
    measure_circuits,
    only_weights,
)
from workers.circuits.measurement import measure_rows
from workers.circuits.projections import find_projections
from workers.circuits.tasks import Task, TaskRow

NODES = (Granularity.NEURON, Granularity.HEAD)


def projections_of(model, granularities=NODES):
    return find_projections(as_loaded(model), granularities)


def masks(projections, keep):
    return {
        name: torch.full((projection.components,), keep) for name, projection in projections.items()
    }


def measure(model, projections, task, circuits, ablation, **changes):
    return measure_circuits(
        as_loaded(model, pad_id=PAD), projections, task, circuits, ablation, **changes
    )


def test_faithfulness_is_one_for_the_whole_and_zero_for_the_empty_circuit():
    assert compute_faithfulness(3.0, 1.0, 3.0) == 1.0
    assert compute_faithfulness(1.0, 1.0, 3.0) == 0.0
    assert compute_faithfulness(4.0, 1.0, 3.0) == 1.5
    with pytest.raises(UndefinedFaithfulnessError, match="choose another"):
        compute_faithfulness(1.0, 2.0, 2.0)


def test_a_perfect_curve_scores_as_in_mib():
    perfect = [1.0] * len(MIB_SHARES)
    assert compute_cpr(MIB_SHARES, perfect) == pytest.approx(0.999)
    assert compute_cmd(MIB_SHARES, perfect) == 0.0


def test_cpr_and_cmd_of_a_hand_made_curve():
    shares, curve = (0.2, 0.6, 1.0), (0.0, 1.5, 1.0)
    # 0.4 · 0.75 + 0.4 · 1.25, and 0.4 · (1 + 0.5)/2 + 0.4 · (0.5 + 0)/2
    assert compute_cpr(shares, curve) == pytest.approx(0.8)
    assert compute_cmd(shares, curve) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="ascend"):
        compute_cpr((0.5, 0.5), (1.0, 1.0))


@pytest.mark.parametrize("ablation", CircuitAblation)
def test_keeping_everything_is_the_model_bit_for_bit(model, ablation):
    task, projections = draw_task(), projections_of(model)
    kept = measure(
        model, projections, task, [masks(projections, True)], ablation, mean_rows=task.rows
    )
    assert torch.equal(kept[0], measure_rows(as_loaded(model, pad_id=PAD), task.rows, task.metric))


def test_identical_corrupted_rows_change_nothing(model):
    task, projections = draw_task(), projections_of(model)
    rows = tuple(replace(row, corrupted_ids=row.clean_ids) for row in task.rows)
    same = Task(task.name, task.metric, rows)
    measured = measure(
        model,
        projections,
        same,
        [masks(projections, False), masks(projections, True)],
        CircuitAblation.COUNTERFACTUAL,
    )
    assert torch.allclose(measured[0], measured[1], atol=1e-5)


def test_the_empty_node_circuit_is_the_corrupted_run_where_embeddings_agree(model):
    """With every node from the corrupted run and the same last token, so are the logits."""
    task, projections = draw_task(), projections_of(model)
    measured = measure(
        model, projections, task, [masks(projections, False)], CircuitAblation.COUNTERFACTUAL
    )
    corrupted = measure_rows(as_loaded(model, pad_id=PAD), task.rows, task.metric, corrupted=True)
    assert torch.allclose(measured[0], corrupted, atol=1e-4)


def test_zero_ablation_is_zeroing_the_columns(model):
    task, projections = draw_task(), projections_of(model, (Granularity.NEURON,))
    circuit = masks(projections, True)
    circuit[MODULES[0]][[3, 5]] = False
    measured = measure(model, projections, task, [circuit], CircuitAblation.ZERO)
    with torch.no_grad():
        model.get_submodule(MODULES[0]).weight[:, [3, 5]] = 0
    expected = measure_rows(as_loaded(model, pad_id=PAD), task.rows, task.metric)
    assert torch.allclose(measured[0], expected, atol=1e-5)


def test_mean_ablation_puts_the_mean_of_the_clean_prompts_in_place(model):
    projections = projections_of(model, (Granularity.NEURON,))
    task, module = draw_task((5, 5)), model.get_submodule(MODULES[1])
    read: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    model(torch.tensor([row.clean_ids for row in task.rows]))
    handle.remove()
    mean = read[0].flatten(0, 1).mean(dim=0)
    circuit = masks(projections, True)
    circuit[MODULES[1]][:] = False
    measured = measure(
        model, projections, task, [circuit], CircuitAblation.MEAN, mean_rows=task.rows
    )
    handle = module.register_forward_pre_hook(lambda module, args: (mean.expand_as(args[0]),))
    expected = measure_rows(as_loaded(model, pad_id=PAD), task.rows, task.metric)
    handle.remove()
    torch.testing.assert_close(measured[0], expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="at least one sample"):
        measure(model, projections, task, [circuit], CircuitAblation.MEAN)


def test_padding_and_batching_do_not_change_a_circuit(model):
    task, projections = draw_task((9, 5, 7)), projections_of(model)
    circuit = masks(projections, True)
    for keep_mask in circuit.values():
        keep_mask[::2] = False
    together = measure(model, projections, task, [circuit], CircuitAblation.COUNTERFACTUAL)
    alone = measure(
        model, projections, task, [circuit], CircuitAblation.COUNTERFACTUAL, batch_tokens=1
    )
    assert torch.allclose(together, alone, atol=1e-5)


def test_masks_of_other_modules_or_sizes_are_refused(model):
    task, projections = draw_task(), projections_of(model)
    circuit = masks(projections, True)
    with pytest.raises(ValueError, match="exactly the modules"):
        measure(model, projections, task, [{MODULES[0]: circuit[MODULES[0]]}], CircuitAblation.ZERO)
    circuit[MODULES[0]] = torch.ones(NEURONS + 1, dtype=torch.bool)
    with pytest.raises(ValueError, match=f"needs {NEURONS}"):
        measure(model, projections, task, [circuit], CircuitAblation.ZERO)


def test_only_weights_gives_the_weights_back_even_after_a_crash(model):
    projections = projections_of(model, (Granularity.WEIGHT,))
    before, objects = weight_bytes(model), [id(parameter) for parameter in model.parameters()]
    circuit = {
        name: torch.zeros(projection.module.weight.shape, dtype=torch.bool)
        for name, projection in projections.items()
    }

    def crash() -> None:
        with only_weights(projections, circuit):
            assert not model.get_submodule(MODULES[0]).weight.any()
            raise RuntimeError("crash")

    with pytest.raises(RuntimeError, match="crash"):
        crash()
    assert weight_bytes(model) == before
    assert [id(parameter) for parameter in model.parameters()] == objects


def test_a_weight_circuit_of_everything_is_the_model(model):
    task = draw_task()
    projections = projections_of(model, (Granularity.WEIGHT,))
    circuit = {
        name: torch.ones(projection.module.weight.shape, dtype=torch.bool)
        for name, projection in projections.items()
    }
    measured = measure(model, projections, task, [circuit], CircuitAblation.ZERO)
    assert torch.equal(
        measured[0], measure_rows(as_loaded(model, pad_id=PAD), task.rows, task.metric)
    )
    with pytest.raises(ValueError, match="set ablation to zero"):
        measure(model, projections, task, [circuit], CircuitAblation.COUNTERFACTUAL)


def test_hooks_are_gone_after_an_error(model):
    projections = projections_of(model)
    row = TaskRow((1, 2), (1, 3), (10_000,), (4,))
    with pytest.raises(IndexError):
        measure(
            model,
            projections,
            Task("bad", draw_task().metric, (row,)),
            [masks(projections, True)],
            CircuitAblation.ZERO,
        )
    assert all(not module._forward_pre_hooks for module in model.modules())
