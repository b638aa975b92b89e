"""Scores against their formulas, written slowly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from excise.names import Attributor, CircuitContrast, CircuitMetric, Granularity
from tests.tiny import MODULES, as_loaded
from tests.unit.workers.circuits.build import HEADS, PAD, draw_task
from workers.attribution.accumulation import NonFiniteRelevanceError
from workers.circuits.measurement import compute_metric, compute_metric_directions
from workers.circuits.projections import find_projections
from workers.circuits.relevance import compute_scores
from workers.circuits.tasks import Task

NODES = (Granularity.NEURON, Granularity.HEAD)
GRADIENTS = (Attributor.ATTNLRP, Attributor.CP_LRP, Attributor.GRADIENT_X_INPUT)


def score(model, attributor, task, contrast, granularities=NODES):
    projections = find_projections(as_loaded(model), granularities)
    return compute_scores(as_loaded(model, pad_id=PAD), attributor, projections, task, contrast)


def read_with_gradients(model, row):
    """Inputs of all output projections on a prompt, kept in the graph, and the logits."""
    inputs: dict[str, torch.Tensor] = {}
    handles = []
    for name in (*MODULES, *HEADS):

        def hook(module, args, name=name):
            inputs[name] = args[0]

        handles.append(model.get_submodule(name).register_forward_pre_hook(hook))
    logits = {}
    values = {}
    for side, ids in (("corrupted", row.corrupted_ids), ("clean", row.clean_ids)):
        logits[side] = model(torch.tensor([ids])).logits[0, -1]
        values[side] = dict(inputs)
    for handle in handles:
        handle.remove()
    return values["clean"], values["corrupted"], logits["clean"]


@pytest.mark.parametrize("contrast", CircuitContrast)
def test_gradient_scores_follow_their_formula(model, contrast):
    task = draw_task((6, 5))
    scores = score(model, Attributor.GRADIENT_X_INPUT, task, contrast)

    expected = {name: torch.zeros(()) for name in scores}
    for row in task.rows:
        clean, corrupted, logits = read_with_gradients(model, row)
        metric = logits[row.answer_ids[0]] - logits[row.wrong_ids[0]]
        gradients = torch.autograd.grad(metric, [clean[name] for name in expected])
        for name, gradient in zip(expected, gradients, strict=True):
            other = corrupted[name].detach() if contrast is CircuitContrast.CORRUPTED else 0.0
            relevance = ((clean[name].detach() - other) * gradient)[0].sum(dim=0)
            if name in HEADS:
                relevance = relevance.view(4, 8).sum(dim=1)
            expected[name] = expected[name] + relevance / len(task.rows)

    for name, values in scores.items():
        assert torch.allclose(values, expected[name], atol=1e-5), name


@pytest.mark.parametrize("contrast", CircuitContrast)
def test_wanda_and_activation_follow_their_formulas(model, contrast):
    task = draw_task((6, 5))
    wanda = score(model, Attributor.WANDA, task, contrast)
    activation = score(model, Attributor.ACTIVATION, task, contrast)

    for name in (MODULES[1], HEADS[1]):
        differences = []
        for row in task.rows:
            clean, corrupted, _ = read_with_gradients(model, row)
            other = corrupted[name][0] if contrast is CircuitContrast.CORRUPTED else 0.0
            differences.append((clean[name][0] - other).detach())
        stacked = torch.cat(differences)
        weight = model.get_submodule(name).weight.detach()
        rms = stacked.square().mean(dim=0).sqrt()
        matrix = (weight * rms).square().sum(dim=0)
        writes = stacked.abs() * weight.norm(dim=0)
        if name in HEADS:
            matrix = matrix.view(4, 8).sum(dim=1)
            writes = writes.view(-1, 4, 8).norm(dim=2)
        assert torch.allclose(wanda[name], matrix.sqrt(), atol=1e-5)
        assert torch.allclose(activation[name], writes.mean(dim=0), atol=1e-5)


def test_weight_gradient_scores_are_weight_times_its_gradient(model):
    task = draw_task((6, 5))
    scores = score(
        model, Attributor.GRADIENT_X_INPUT, task, CircuitContrast.ZERO, (Granularity.WEIGHT,)
    )

    model.zero_grad()
    for row in task.rows:
        logits = model(torch.tensor([row.clean_ids])).logits[0, -1]
        ((logits[row.answer_ids[0]] - logits[row.wrong_ids[0]]) / len(task.rows)).backward()
    for name, values in scores.items():
        weight = model.get_submodule(name).weight
        assert torch.allclose(values, weight.detach() * weight.grad, atol=1e-5), name


@pytest.mark.parametrize("attributor", GRADIENTS)
@pytest.mark.parametrize("contrast", CircuitContrast)
def test_weights_into_a_neuron_sum_to_its_relevance(model, attributor, contrast):
    """A column of the down projection holds together what its neuron does."""
    task = draw_task((6, 5))
    weights = score(model, attributor, task, contrast, (Granularity.WEIGHT,))
    nodes = score(model, attributor, task, contrast)

    for name in MODULES:
        assert torch.allclose(weights[name].sum(dim=0), nodes[name], atol=1e-4)
    for name in HEADS:
        per_head = weights[name].sum(dim=0).view(4, 8).sum(dim=1)
        assert torch.allclose(per_head, nodes[name], atol=1e-4)


def test_cp_lrp_gives_queries_and_keys_no_relevance(model):
    scores = score(
        model, Attributor.CP_LRP, draw_task(), CircuitContrast.ZERO, (Granularity.WEIGHT,)
    )
    for name, values in scores.items():
        assert bool(values.any()) is not name.endswith(("q_proj", "k_proj")), name


def test_lrp_contrast_is_zero_for_identical_prompts(model):
    task = draw_task()
    rows = tuple(replace(row, corrupted_ids=row.clean_ids) for row in task.rows)
    scores = score(
        model, Attributor.ATTNLRP, Task("s", task.metric, rows), CircuitContrast.CORRUPTED
    )
    assert all(torch.allclose(values, torch.zeros(()), atol=1e-6) for values in scores.values())


@pytest.mark.parametrize("granularities", [NODES, (Granularity.WEIGHT,)])
def test_magnitude_and_random_look_at_no_row(model, granularities):
    task = draw_task()
    magnitude = score(model, Attributor.MAGNITUDE, task, CircuitContrast.ZERO, granularities)
    random = score(model, Attributor.RANDOM, task, CircuitContrast.ZERO, granularities)
    again = score(model, Attributor.RANDOM, draw_task(seed=3), CircuitContrast.ZERO, granularities)

    assert all(torch.equal(random[name], again[name]) for name in random)
    assert {name: values.shape for name, values in random.items()} == {
        name: values.shape for name, values in magnitude.items()
    }
    weight = model.get_submodule(MODULES[0]).weight.detach()
    expected = weight.norm(dim=0) if granularities == NODES else weight.abs()
    assert torch.allclose(magnitude[MODULES[0]], expected)


def test_the_direction_of_a_logit_difference_is_a_difference_of_rows(model):
    row = draw_task().rows[0]
    states = torch.randn(1, 32)
    directions = compute_metric_directions(
        as_loaded(model), states, [row], CircuitMetric.LOGIT_DIFFERENCE
    )
    head = model.lm_head.weight
    assert torch.allclose(directions[0], head[row.answer_ids[0]] - head[row.wrong_ids[0]])


def test_the_probability_metric_sums_both_sides(model):
    row = replace(draw_task().rows[0], answer_ids=(3, 4), wrong_ids=(5, 6, 7))
    states = torch.randn(1, 32)
    value = compute_metric(as_loaded(model), states, [row], CircuitMetric.PROBABILITY_DIFFERENCE)
    probabilities = torch.softmax(model.lm_head(states)[0], dim=-1)
    assert torch.allclose(value[0], probabilities[3:5].sum() - probabilities[5:8].sum())


def test_non_finite_relevance_names_module_and_rows(model):
    with torch.no_grad():
        model.get_submodule(MODULES[1]).weight[0, 0] = torch.inf
    with pytest.raises(NonFiniteRelevanceError, match=r"rows \["):
        score(model, Attributor.GRADIENT_X_INPUT, draw_task(), CircuitContrast.ZERO)
