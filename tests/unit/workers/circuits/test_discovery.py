from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from excise.names import (
    Attributor,
    CircuitAblation,
    CircuitContrast,
    CircuitMetric,
    CircuitOrder,
    Granularity,
    Scope,
)
from tests.tiny import MODULES, NEURONS, as_loaded, weight_bytes
from tests.unit.workers.circuits.build import (
    HEADS,
    PAD,
    build_model_with_one_head,
    build_model_with_one_neuron,
    draw_task,
    turn_towards_answers,
)
from workers.circuits.discovery import (
    WeakTaskError,
    choose_point,
    count_work,
    discover_circuit,
    resolve_scope,
)
from workers.circuits.outcome import CircuitOutcome, CircuitSettings, CurvePoint
from workers.circuits.tasks import Task, TaskRow

LOOKING = [
    attributor for attributor in Attributor if attributor.value not in ("random", "magnitude")
]
HEAD_SHARES = (0.125, 0.25, 0.5, 1.0)
NEURON_SHARES = (1 / 96, 0.1, 0.5, 1.0)


def discover(model: LlamaForCausalLM, task: Task, settings: CircuitSettings) -> CircuitOutcome:
    return discover_circuit(as_loaded(model, pad_id=PAD), task, task, settings)


@pytest.mark.parametrize("attributor", LOOKING)
@pytest.mark.parametrize("contrast", CircuitContrast)
def test_the_one_head_that_carries_the_answer_is_the_circuit(attributor, contrast):
    model = build_model_with_one_head(HEADS[0], 2)
    task = turn_towards_answers(model, draw_task())
    settings = CircuitSettings(
        attributor, (Granularity.HEAD,), contrast=contrast, shares=HEAD_SHARES
    )

    outcome = discover(model, task, settings)

    assert outcome.components == 8
    assert [point.kept for point in outcome.curve] == [1, 2, 4, 8]
    assert [point.faithfulness for point in outcome.curve] == pytest.approx([1.0] * 4)
    assert outcome.chosen.kept == 1
    outside = outcome.outside[Granularity.HEAD].indices
    assert {name: chosen.tolist() for name, chosen in outside.items()} == {
        HEADS[0]: [0, 1, 3],
        HEADS[1]: [0, 1, 2, 3],
    }
    strongest = max(outcome.heatmap, key=lambda layer: layer.absolute_relevance)
    assert strongest.module == HEADS[0]
    assert max(range(4), key=lambda head: abs(strongest.heads[head])) == 2


@pytest.mark.parametrize("attributor", LOOKING)
def test_the_one_neuron_that_writes_is_the_circuit(attributor):
    model = build_model_with_one_neuron(MODULES[1], 17)
    task = turn_towards_answers(model, draw_task())
    settings = CircuitSettings(
        attributor, scope=Scope.GLOBAL, shares=NEURON_SHARES, threshold=0.999
    )

    outcome = discover(model, task, settings)

    assert outcome.chosen.kept == 1
    assert outcome.chosen.faithfulness == pytest.approx(1.0, abs=1e-4)
    removed = outcome.outside[Granularity.NEURON].indices
    assert removed[MODULES[1]].tolist() == [index for index in range(NEURONS) if index != 17]
    assert len(removed[MODULES[0]]) == NEURONS


def test_neurons_and_heads_rank_together_in_a_node_circuit():
    model = build_model_with_one_head(HEADS[1], 3)
    task = turn_towards_answers(model, draw_task())
    settings = CircuitSettings(
        Attributor.GRADIENT_X_INPUT,
        (Granularity.NEURON, Granularity.HEAD),
        shares=(1 / 104, 1.0),
    )

    outcome = discover(model, task, settings)

    assert outcome.components == 2 * NEURONS + 8
    assert outcome.curve[0].kept == 1
    assert outcome.curve[0].faithfulness == pytest.approx(1.0)
    assert len(outcome.outside[Granularity.NEURON]) == 2 * NEURONS
    assert len(outcome.outside[Granularity.HEAD]) == 7


@pytest.mark.parametrize("ablation", CircuitAblation)
def test_the_curve_ends_at_the_whole_model_and_the_empty_circuit_is_the_origin(model, ablation):
    task = turn_towards_answers(model, draw_task())
    settings = CircuitSettings(Attributor.ATTNLRP, ablation=ablation, shares=(0.1, 0.5, 1.0))

    outcome = discover(model, task, settings)

    assert outcome.curve[-1].faithfulness == 1.0
    assert outcome.curve[-1].metric == pytest.approx(outcome.whole_metric)
    assert outcome.curve[-1].retention == 1.0
    assert outcome.curve[-1].accuracy == 1.0
    middle = outcome.curve[0]
    assert middle.faithfulness == pytest.approx(
        (middle.metric - outcome.empty_metric) / (outcome.whole_metric - outcome.empty_metric)
    )


def test_a_weight_circuit_keeps_weights_by_zeroing_the_rest(model):
    task = turn_towards_answers(model, draw_task())
    settings = CircuitSettings(
        Attributor.CP_LRP,
        (Granularity.WEIGHT,),
        contrast=CircuitContrast.ZERO,
        order=CircuitOrder.ABSOLUTE,
        ablation=CircuitAblation.ZERO,
        shares=(0.5, 0.999, 1.0),
        threshold=0.99,
    )
    before = weight_bytes(model)

    outcome = discover(model, task, settings)

    assert weight_bytes(model) == before
    assert outcome.components == sum(
        parameter.numel() for name, parameter in model.named_parameters() if "_proj" in name
    )
    assert outcome.curve[1].retention == pytest.approx(1.0, abs=0.05)
    assert len(outcome.outside[Granularity.WEIGHT]) + outcome.chosen.kept == outcome.components


def test_a_weak_task_is_refused(model):
    task = turn_towards_answers(model, draw_task())
    turned = Task(
        task.name,
        task.metric,
        tuple(
            TaskRow(row.clean_ids, row.corrupted_ids, row.wrong_ids, row.answer_ids)
            for row in task.rows
        ),
    )
    with pytest.raises(WeakTaskError, match="does not do the task"):
        discover(model, turned, CircuitSettings(Attributor.ACTIVATION))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shares": (0.5, 0.2, 1.0)}, "ascend"),
        ({"shares": (0.1, 0.5)}, "ascend"),
        ({"granularities": ()}, "made of"),
        ({"granularities": (Granularity.WEIGHT, Granularity.HEAD)}, "zero"),
        ({"granularities": (Granularity.WEIGHT,)}, "by zero"),
        ({"scope": Scope.ROW}, "weight matrices"),
    ],
)
def test_settings_that_do_not_fit_are_refused(model, changes, message):
    task = turn_towards_answers(model, draw_task())
    with pytest.raises(ValueError, match=message):
        discover(model, task, replace(CircuitSettings(Attributor.ATTNLRP), **changes))


def test_progress_adds_up_to_the_work_announced(model):
    task = turn_towards_answers(model, draw_task())
    done: list[int] = []
    for settings in (
        CircuitSettings(Attributor.ATTNLRP, shares=(0.5, 1.0), batch_tokens=14),
        CircuitSettings(
            Attributor.RANDOM,
            (Granularity.WEIGHT,),
            ablation=CircuitAblation.ZERO,
            shares=(0.5, 1.0),
        ),
    ):
        done.clear()
        discover_circuit(as_loaded(model, pad_id=PAD), task, task, settings, advance=done.append)
        assert sum(done) == count_work(settings, task, task)


def test_the_batch_size_does_not_change_the_outcome(model):
    task = turn_towards_answers(model, draw_task())
    settings = CircuitSettings(Attributor.ATTNLRP, shares=(0.2, 1.0))
    small = discover(model, task, replace(settings, batch_tokens=7))
    large = discover(model, task, settings)

    for name, values in large.scores.items():
        assert torch.allclose(values, small.scores[name], rtol=1e-4, atol=1e-6)
    assert small.curve[0].metric == pytest.approx(large.curve[0].metric, rel=1e-4)


def test_discovery_leaves_no_trace(model):
    task = turn_towards_answers(model, draw_task())
    before = weight_bytes(model)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    logits = model(torch.tensor([task.rows[0].clean_ids])).logits

    discover(model, task, CircuitSettings(Attributor.ATTNLRP, order=CircuitOrder.SIGNED))

    assert weight_bytes(model) == before
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(
        not module._forward_hooks and not module._forward_pre_hooks for module in model.modules()
    )
    assert torch.equal(model(torch.tensor([task.rows[0].clean_ids])).logits, logits)


def test_a_probability_task_runs_alike(model):
    task = turn_towards_answers(model, draw_task())
    rows = tuple(replace(row, answer_ids=(*row.answer_ids, 5)) for row in task.rows)
    outcome = discover(
        model,
        turn_towards_answers(model, Task("p", CircuitMetric.PROBABILITY_DIFFERENCE, rows)),
        CircuitSettings(Attributor.ATTNLRP, shares=(0.5, 1.0)),
    )
    assert 0 < outcome.whole_metric <= 1


def point(share: float, retention: float) -> CurvePoint:
    return CurvePoint(share, 0, retention, retention, retention, 1.0)


def test_a_lucky_small_circuit_below_a_failing_one_is_not_chosen():
    curve = [point(0.1, 0.95), point(0.2, 0.5), point(0.5, 0.92), point(1.0, 1.0)]
    assert choose_point(curve, 0.9).share == 0.5
    assert choose_point(curve, 0.99).share == 1.0


def test_wanda_compares_within_rows_or_layers_by_default():
    settings = CircuitSettings(Attributor.WANDA)
    assert resolve_scope(settings) is Scope.LAYER
    assert resolve_scope(replace(settings, granularities=(Granularity.WEIGHT,))) is Scope.ROW
    assert resolve_scope(replace(settings, granularities=(Granularity.HEAD,))) is Scope.GLOBAL
    assert resolve_scope(replace(settings, scope=Scope.GLOBAL)) is Scope.GLOBAL
    assert resolve_scope(CircuitSettings(Attributor.ATTNLRP)) is Scope.GLOBAL
