"""Circuits of every dense family, and what is refused in experts."""

from __future__ import annotations

import pytest
import torch

from excise.names import (
    Attributor,
    CircuitAblation,
    CircuitContrast,
    CircuitOrder,
    Granularity,
    Scope,
)
from tests.tiny import as_loaded, weight_bytes
from tests.tiny_families import DENSE, build_family_model
from tests.unit.workers.circuits.build import PAD, draw_task, turn_towards_answers
from workers.attribution.attribution import Attribution
from workers.attribution.attributors import compute_relevance
from workers.attribution.targets import Target
from workers.circuits.discovery import discover_circuit
from workers.circuits.measurement import measure_rows
from workers.circuits.outcome import CircuitSettings
from workers.circuits.projections import find_projections
from workers.circuits.relevance import compute_scores
from workers.domain import TokenSequence
from workers.families import UnsupportedGranularityError
from workers.pruning.components import pruned


@pytest.fixture(params=["gpt2", "gpt_neox", "llama", "opt"])
def any_model(request):
    """Weights stored transposed, projections fused, neither, and tokens of all rows in one axis."""
    return build_family_model(request.param)


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize(
    ("attributor", "granularities"),
    [
        (Attributor.ATTNLRP, (Granularity.NEURON, Granularity.HEAD)),
        (Attributor.ACTIVATION, (Granularity.NEURON, Granularity.HEAD)),
        (Attributor.ATTNLRP, (Granularity.WEIGHT,)),
    ],
)
def test_every_family_has_circuits_and_gets_its_model_back(family, attributor, granularities):
    model = build_family_model(family)
    task = turn_towards_answers(model, draw_task())
    before = weight_bytes(model)
    is_weight = granularities == (Granularity.WEIGHT,)
    settings = CircuitSettings(
        attributor,
        granularities,
        ablation=CircuitAblation.ZERO if is_weight else CircuitAblation.COUNTERFACTUAL,
        scope=Scope.ROW if is_weight else Scope.GLOBAL,
        shares=(0.5, 1.0),
        refinements=1,
    )

    outcome = discover_circuit(as_loaded(model, pad_id=PAD), task, task, settings)

    assert outcome.curve[-1].faithfulness == 1.0
    outside = sum(len(selection) for selection in outcome.outside.values())
    assert outside + outcome.chosen.kept == outcome.components
    assert weight_bytes(model) == before


@pytest.mark.parametrize("granularity", Granularity)
def test_pruning_what_is_outside_leaves_the_circuit_that_was_measured(any_model, granularity):
    task = turn_towards_answers(any_model, draw_task())
    settings = CircuitSettings(
        Attributor.GRADIENT_X_INPUT,
        (granularity,),
        contrast=CircuitContrast.ZERO,
        order=CircuitOrder.SIGNED,
        ablation=CircuitAblation.ZERO,
        shares=(0.3, 0.6, 1.0),
        threshold=0.7,
    )
    outcome = discover_circuit(as_loaded(any_model, pad_id=PAD), task, task, settings)

    assert outcome.chosen.kept < outcome.components
    with pruned(any_model, outcome.outside[granularity]):
        values = measure_rows(as_loaded(any_model, pad_id=PAD), task.rows, task.metric)
    assert float(values.mean()) == pytest.approx(outcome.chosen.metric, rel=1e-3)


@pytest.mark.parametrize("attributor", [Attributor.ATTNLRP, Attributor.GRADIENT_X_INPUT])
def test_scores_without_contrast_are_the_relevance_of_attribution(any_model, attributor):
    """The same target through the other implementation, which averages over tokens."""
    task = draw_task((6, 5))
    samples = [
        TokenSequence(row.clean_ids, row.answer_ids, contrast_ids=row.wrong_ids)
        for row in task.rows
    ]
    for granularity in Granularity:
        projections = find_projections(as_loaded(any_model), (granularity,))
        scores = compute_scores(
            as_loaded(any_model, pad_id=PAD), attributor, projections, task, CircuitContrast.ZERO
        )
        relevance = compute_relevance(
            as_loaded(any_model, pad_id=PAD),
            Attribution(attributor, granularity, Target.EMITTED_MINUS_CONTRAST),
            samples,
        )
        for name, values in scores.items():
            expected = relevance.mean[name] * relevance.tokens / len(task.rows)
            assert torch.allclose(values, expected, rtol=1e-3, atol=1e-5), name


def test_what_lies_in_experts_is_refused():
    model = build_family_model("mixtral")
    for granularity in (Granularity.NEURON, Granularity.WEIGHT):
        with pytest.raises(UnsupportedGranularityError, match=f"{granularity}s of mixtral.*heads"):
            find_projections(as_loaded(model), (granularity,))
    assert len(find_projections(as_loaded(model), (Granularity.HEAD,))) == 2
