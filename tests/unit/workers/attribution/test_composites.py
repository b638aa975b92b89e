"""Rules on one model instance: same logits, conserved relevance, and no trace afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama import modeling_llama

from tests.tiny import VOCABULARY, as_loaded, build_tiny_model, weight_bytes
from workers.attribution.composites import (
    ATTN_LRP,
    COMPOSITES,
    CP_LRP,
    GRADIENT,
    Composite,
    attribution_rules,
)
from workers.families import LLAMA

every_composite = pytest.mark.parametrize("composite", COMPOSITES.values(), ids=COMPOSITES)
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
CLASSES = (
    modeling_llama.LlamaForCausalLM,
    modeling_llama.LlamaModel,
    modeling_llama.LlamaDecoderLayer,
    modeling_llama.LlamaMLP,
    modeling_llama.LlamaRMSNorm,
    modeling_llama.LlamaAttention,
    nn.Dropout,
    nn.Linear,
    nn.SiLU,
)
FUNCTIONS = ("eager_attention_forward", "apply_rotary_pos_emb", "repeat_kv")


def find_traces(model: nn.Module) -> dict[str, Any]:
    """Everything a set of rules could leave behind, in the model and in the process."""
    return {
        "hooks": [
            (name, kind, list(getattr(module, kind)))
            for name, module in model.named_modules()
            for kind in HOOKS
        ],
        "forwards": [name for name, module in model.named_modules() if "forward" in vars(module)],
        "training": [module.training for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "grads": [id(parameter.grad) for parameter in model.parameters()],
        "weights": weight_bytes(model),
        "classes": [kind.forward for kind in CLASSES],
        "functions": [getattr(modeling_llama, name) for name in FUNCTIONS],
        "attention": dict(ALL_ATTENTION_FUNCTIONS),
        "implementation": model.config._attn_implementation,
        "softmax": nn.functional.softmax,
        "global_hooks": list(nn.modules.module._global_forward_hooks),
    }


def draw_ids(seed: int = 0, length: int = 12) -> torch.Tensor:
    return torch.randint(VOCABULARY, (2, length), generator=torch.Generator().manual_seed(seed))


def run_from_embeddings(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    return embedded, model(inputs_embeds=embedded, use_cache=False).logits


def explain_top_logits(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Relevance `(sample, token, hidden)` of the embeddings, and what is explained `(sample,)`."""
    embedded, logits = run_from_embeddings(model, ids)
    target = logits[:, -1].max(dim=-1).values
    (gradient,) = torch.autograd.grad(target.sum(), embedded)
    return (embedded * gradient).detach(), target.detach()


@every_composite
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rules_change_no_bit_of_the_logits(
    composite: Composite, dtype: torch.dtype, attention: str
) -> None:
    model = build_tiny_model(attn_implementation=attention).to(dtype)
    _, plain = run_from_embeddings(model, draw_ids())
    with attribution_rules(as_loaded(model), composite):
        _, ruled = run_from_embeddings(model, draw_ids())
    assert ruled.requires_grad
    assert torch.equal(plain, ruled)


def test_cp_lrp_conserves_relevance_from_the_logit_to_the_embeddings() -> None:
    for seed in range(5):
        model = build_tiny_model(seed)
        with attribution_rules(as_loaded(model), CP_LRP):
            relevance, target = explain_top_logits(model, draw_ids(seed))
        torch.testing.assert_close(relevance.sum(dim=(1, 2)), target, rtol=1e-4, atol=1e-4)


def test_the_plain_gradient_does_not_conserve(model: LlamaForCausalLM) -> None:
    with attribution_rules(as_loaded(model), GRADIENT):
        relevance, target = explain_top_logits(model, draw_ids())
    assert ((relevance.sum(dim=(1, 2)) - target).abs() > 0.1 * target.abs()).all()


def test_the_gradient_composite_is_the_plain_gradient(model: LlamaForCausalLM) -> None:
    plain, _ = explain_top_logits(model, draw_ids())
    with attribution_rules(as_loaded(model), GRADIENT):
        ruled, _ = explain_top_logits(model, draw_ids())
    torch.testing.assert_close(ruled, plain)


def test_composites_differ_from_one_another(model: LlamaForCausalLM) -> None:
    found = []
    for composite in COMPOSITES.values():
        with attribution_rules(as_loaded(model), composite):
            found.append(explain_top_logits(model, draw_ids())[0])
    for left, right in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(found[left], found[right], rtol=0.05)


def test_nothing_below_a_query_or_key_is_relevant_under_cp_lrp(model: LlamaForCausalLM) -> None:
    grads: dict[str, torch.Tensor] = {}
    with attribution_rules(as_loaded(model), CP_LRP):
        for name in ("q_proj", "k_proj", "v_proj"):
            projection = model.get_submodule(f"model.layers.0.self_attn.{name}")
            projection.weight.requires_grad_()
        _, logits = run_from_embeddings(model, draw_ids())
        logits[:, -1].max(dim=-1).values.sum().backward()
        for name in ("q_proj", "k_proj", "v_proj"):
            weight = model.get_submodule(f"model.layers.0.self_attn.{name}").weight
            grads[name], weight.grad = weight.grad, None
    assert grads["q_proj"] is None or not grads["q_proj"].any()
    assert grads["k_proj"] is None or not grads["k_proj"].any()
    assert grads["v_proj"].any()


@every_composite
@pytest.mark.parametrize("training", [True, False])
def test_rules_leave_no_trace(composite: Composite, training: bool) -> None:
    model = build_tiny_model()
    model.train(training)
    model.lm_head.weight.requires_grad_(False)
    model.model.norm.weight.grad = torch.ones_like(model.model.norm.weight)
    before = find_traces(model)
    with attribution_rules(as_loaded(model), composite):
        inside = find_traces(model)
        explain_top_logits(model, draw_ids())
    assert find_traces(model) == before
    assert not any(inside["requires_grad"])
    assert not any(inside["training"])
    shared = ("classes", "functions", "attention", "forwards", "softmax", "global_hooks", "grads")
    for name in shared:
        assert inside[name] == before[name], name
    assert torch.equal(model.model.norm.weight.grad, torch.ones_like(model.model.norm.weight))


@pytest.mark.parametrize("training", [True, False])
def test_every_module_keeps_its_own_training_mode(training: bool) -> None:
    model = build_tiny_model()
    model.train(training)
    model.model.layers[0].train(not training)
    model.model.layers[1].mlp.act_fn.train(not training)
    before = find_traces(model)["training"]
    with attribution_rules(as_loaded(model), ATTN_LRP):
        assert not any(find_traces(model)["training"])
    assert find_traces(model)["training"] == before
    assert set(before) == {True, False}


@every_composite
def test_an_exception_inside_leaves_no_trace(composite: Composite) -> None:
    model = build_tiny_model().train()
    before = find_traces(model)

    def fail() -> None:
        with attribution_rules(as_loaded(model), composite):
            explain_top_logits(model, draw_ids())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert find_traces(model) == before


def test_rules_that_cannot_be_placed_leave_no_trace(model: LlamaForCausalLM) -> None:
    before = find_traces(model)
    absent = replace(LLAMA.attention, value="self_attn.absent")  # the last path looked up
    wrong = replace(LLAMA, attention=absent)
    with (
        pytest.raises(AttributeError, match="absent"),
        attribution_rules(replace(as_loaded(model), family=wrong), ATTN_LRP),
    ):
        pass
    assert find_traces(model) == before


def test_two_models_keep_their_own_rules_in_nested_contexts() -> None:
    outer, inner = build_tiny_model(1), build_tiny_model(2)
    ids = draw_ids()
    with attribution_rules(as_loaded(outer), ATTN_LRP):
        outer_alone, _ = explain_top_logits(outer, ids)
    with attribution_rules(as_loaded(inner), CP_LRP):
        inner_alone, _ = explain_top_logits(inner, ids)
    with attribution_rules(as_loaded(outer), ATTN_LRP):
        with attribution_rules(as_loaded(inner), CP_LRP):
            assert torch.equal(explain_top_logits(outer, ids)[0], outer_alone)
            assert torch.equal(explain_top_logits(inner, ids)[0], inner_alone)
        assert torch.equal(explain_top_logits(outer, ids)[0], outer_alone)
        plain, _ = explain_top_logits(inner, ids)
        assert not torch.allclose(plain, inner_alone)


def test_contexts_may_end_in_another_order() -> None:
    first, second = build_tiny_model(1), build_tiny_model(2)
    ids, before = draw_ids(), find_traces(first)
    with attribution_rules(as_loaded(second), GRADIENT):
        alone, _ = explain_top_logits(second, ids)
    left = attribution_rules(as_loaded(first), ATTN_LRP)
    right = attribution_rules(as_loaded(second), GRADIENT)
    left.__enter__()
    right.__enter__()
    left.__exit__(None, None, None)
    assert find_traces(first) == before
    assert torch.equal(explain_top_logits(second, ids)[0], alone)
    right.__exit__(None, None, None)
