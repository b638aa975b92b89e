"""Circuits where weights are stored the other way round, projections fused, or MLPs experts."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

from excise.names import (
    Attributor,
    CircuitAblation,
    CircuitContrast,
    CircuitOrder,
    Granularity,
    Scope,
)
from tests.tiny import as_loaded, build_tiny_model, weight_bytes
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

SMALL = {"vocab_size": 101, "num_hidden_layers": 2, "bos_token_id": None, "eos_token_id": None}
WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}


def build_gpt2() -> nn.Module:
    settings = {"n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=101, bos_token_id=None, eos_token_id=None, **settings)
    )


def build_gpt_neox() -> nn.Module:
    return GPTNeoXForCausalLM(GPTNeoXConfig(initializer_range=0.2, **SMALL, **WIDTHS))


BUILDERS = {"gpt2": build_gpt2, "gpt_neox": build_gpt_neox, "llama": build_tiny_model}


@pytest.fixture(params=BUILDERS)
def any_model(request):
    torch.manual_seed(0)
    return BUILDERS[request.param]().eval()


@pytest.mark.parametrize(
    "granularities",
    [(Granularity.NEURON, Granularity.HEAD), (Granularity.WEIGHT,)],
)
def test_every_family_has_circuits_and_gets_its_model_back(any_model, granularities):
    task = turn_towards_answers(any_model, draw_task())
    before = weight_bytes(any_model)
    is_weight = granularities == (Granularity.WEIGHT,)
    settings = CircuitSettings(
        Attributor.ATTNLRP,
        granularities,
        ablation=CircuitAblation.ZERO if is_weight else CircuitAblation.COUNTERFACTUAL,
        scope=Scope.ROW if is_weight else Scope.GLOBAL,
        shares=(0.5, 1.0),
        refinements=1,
    )

    outcome = discover_circuit(as_loaded(any_model, pad_id=PAD), task, task, settings)

    assert outcome.curve[-1].faithfulness == 1.0
    outside = sum(len(selection) for selection in outcome.outside.values())
    assert outside + outcome.chosen.kept == outcome.components
    assert weight_bytes(any_model) == before


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
    config = MixtralConfig(
        **SMALL, **WIDTHS, num_key_value_heads=2, num_local_experts=2, num_experts_per_tok=1
    )
    model = MixtralForCausalLM(config).eval()
    for granularity in (Granularity.NEURON, Granularity.WEIGHT):
        with pytest.raises(UnsupportedGranularityError, match=f"{granularity}s of mixtral.*heads"):
            find_projections(as_loaded(model), (granularity,))
    assert len(find_projections(as_loaded(model), (Granularity.HEAD,))) == 2
