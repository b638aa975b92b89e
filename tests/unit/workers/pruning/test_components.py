"""Pruning in memory: exactly the named components, put back to the bit, whatever the family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from tests.tiny import MODULES, NEURONS, select_components, select_neurons, weight_bytes
from tests.unit.workers.pruning.cases import CASES, HEAD, NEURON, WEIGHT, Case, prune_slowly
from workers.domain import Selection
from workers.pruning.components import pruned
from workers.pruning.places import count_available

FIRST, SECOND = MODULES
INDICES = {FIRST: [3, 11], SECOND: [0, 47]}
CHOSEN = select_neurons(INDICES)
IDS = torch.tensor([[1, 2, 3, 4, 5, 40]])
by_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def logits_of(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@by_case
@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_exactly_the_named_components_change(case: Case, scale: float) -> None:
    model, expected = case.build(), case.build()
    before = weight_bytes(model)
    prune_slowly(expected, case, scale)
    with pruned(model, case.selection, scale=scale):
        for name, values in model.state_dict().items():
            assert torch.equal(values, expected.state_dict()[name]), name
        assert torch.equal(logits_of(model), logits_of(expected))
        assert weight_bytes(model) != before
    assert weight_bytes(model) == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.0, 0.25])
def test_every_byte_comes_back(model: LlamaForCausalLM, dtype: torch.dtype, scale: float) -> None:
    model.to(dtype)
    weight = model.get_submodule(FIRST).weight.detach()
    weight[0, 3], weight[1, 3], weight[2, 3] = -0.0, torch.inf, torch.nan
    before = weight_bytes(model)
    with pruned(model, CHOSEN, scale=scale):
        assert weight_bytes(model) != before
        if scale == 0:
            assert not weight[:, 3].contiguous().view(torch.uint8).any()  # no −0.0, no NaN
    assert weight_bytes(model) == before


@by_case
def test_every_byte_comes_back_after_an_exception(case: Case) -> None:
    model = case.build(torch.bfloat16)
    before = weight_bytes(model)
    with pytest.raises(KeyboardInterrupt), pruned(model, case.selection):
        raise KeyboardInterrupt
    assert weight_bytes(model) == before


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_modules_that_share_a_weight_are_changed_once_and_restored(
    model: LlamaForCausalLM, scale: float
) -> None:
    model.get_submodule(SECOND).weight = model.get_submodule(FIRST).weight
    before = model.get_submodule(FIRST).weight.detach().clone()
    both = select_neurons({FIRST: [3, 11], SECOND: [3, 20]})
    expected = before.clone()
    expected[:, [3, 11, 20]] *= scale
    with pruned(model, both, scale=scale):
        assert torch.equal(model.get_submodule(FIRST).weight, expected)
    assert torch.equal(model.get_submodule(FIRST).weight, before)


def test_pruning_nothing_changes_no_logit(model: LlamaForCausalLM) -> None:
    plain = logits_of(model)
    for nothing in (select_neurons({}), select_neurons({FIRST: []})):
        with pruned(model, nothing):
            assert torch.equal(logits_of(model), plain)


def test_a_scale_of_one_changes_no_logit(model: LlamaForCausalLM) -> None:
    plain = logits_of(model)
    with pruned(model, CHOSEN, scale=1.0):
        assert torch.equal(logits_of(model), plain)


def set_inputs(model: nn.Module, inputs: dict[str, dict[int, float]]) -> None:
    """From now on these input features of these modules have these values."""

    def build_hook(values: dict[int, float]) -> Any:
        def hook(module: nn.Module, args: Any) -> Any:
            changed = args[0].clone()
            for feature, value in values.items():
                changed[..., feature] = value
            return (changed,)

        return hook

    for name, values in inputs.items():
        model.get_submodule(name).register_forward_pre_hook(build_hook(values))


def test_pruning_a_neuron_is_silencing_it(model: LlamaForCausalLM) -> None:
    plain = logits_of(model)
    with pruned(model, CHOSEN):
        by_columns = logits_of(model)
    set_inputs(model, {name: dict.fromkeys(indices, 0.0) for name, indices in INDICES.items()})
    torch.testing.assert_close(logits_of(model), by_columns)
    assert not torch.allclose(plain, by_columns)


REPLACED = {
    name: CASES[name]
    for name in ("llama neurons", "llama heads", "gpt2 neurons", "gpt2 heads", "opt neurons")
}


def draw_means(model: nn.Module, selection: Selection) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    means = {}
    for name in selection.indices:
        module = model.get_submodule(name)
        features = module.nx if hasattr(module, "nx") else module.in_features
        means[name] = torch.randn(features, generator=generator)
    return means


@pytest.mark.parametrize("case", REPLACED.values(), ids=REPLACED)
def test_replacing_a_component_is_fixing_it_at_its_mean(case: Case) -> None:
    model = case.build()
    before, plain = weight_bytes(model), logits_of(model)
    means = draw_means(model, case.selection)
    with pruned(model, case.selection, replacement=means):
        replaced = logits_of(model)
    assert weight_bytes(model) == before
    assert torch.equal(logits_of(model), plain)
    size = case.head_dim or 1
    fixed = {
        name: {
            feature: float(means[name][feature])
            for index in indices
            for feature in range(index * size, (index + 1) * size)
        }
        for name, indices in case.indices.items()
    }
    set_inputs(model, fixed)
    torch.testing.assert_close(logits_of(model), replaced, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(plain, replaced, atol=1e-3)


@pytest.mark.parametrize("name", ["llama weights", "gpt2 weights"])
def test_replacing_weights_keeps_the_mean_output(name: str) -> None:
    case = CASES[name]
    model = case.build()
    means = draw_means(model, case.selection)

    def outputs() -> list[torch.Tensor]:
        with torch.no_grad():
            return [model.get_submodule(name)(means[name][None]) for name in case.indices]

    plain = outputs()
    with pruned(model, case.selection):
        assert not all(map(torch.allclose, outputs(), plain))
    with pruned(model, case.selection, replacement=means, scale=0.25):
        torch.testing.assert_close(outputs(), plain)


def test_replacement_leaves_no_hook_behind(model: LlamaForCausalLM) -> None:
    means = draw_means(model, CHOSEN)
    hooks = model.get_submodule(FIRST)._forward_hooks
    with pytest.raises(ZeroDivisionError), pruned(model, CHOSEN, replacement=means):
        raise ZeroDivisionError(len(hooks) / (len(hooks) - 1))
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "means", [{}, {FIRST: torch.ones(NEURONS)}, dict.fromkeys(MODULES, torch.ones(NEURONS - 1))]
)
def test_means_that_do_not_fit_are_refused_and_nothing_is_touched(
    model: LlamaForCausalLM, means: dict[str, torch.Tensor]
) -> None:
    before = weight_bytes(model)
    with pytest.raises(ValueError, match=f"needs its {NEURONS} mean"):
        pruned(model, CHOSEN, replacement=means).__enter__()
    assert weight_bytes(model) == before


def test_experts_take_no_mean() -> None:
    case = CASES["mixtral neurons"]
    with pytest.raises(ValueError, match="take no mean; ablate by zero"):
        pruned(case.build(), case.selection, replacement={}).__enter__()


def test_contexts_nest(model: LlamaForCausalLM) -> None:
    before = weight_bytes(model)
    with pruned(model, select_neurons({FIRST: [3, 11]})):
        outer = weight_bytes(model)
        with pruned(model, select_neurons({FIRST: [11], SECOND: [5]})):  # one in both
            assert weight_bytes(model) != outer
        assert weight_bytes(model) == outer
    assert weight_bytes(model) == before


O_PROJ = "model.layers.0.self_attn.o_proj"


@pytest.mark.parametrize(
    ("indices", "granularity", "complaint"),
    [
        ({SECOND: [NEURONS]}, NEURON, f"{SECOND} has no input feature {NEURONS}"),
        ({SECOND: [-1, 0]}, NEURON, f"{SECOND} has no input feature -1"),
        ({O_PROJ: [4]}, HEAD, f"{O_PROJ} has no head 4"),
        ({O_PROJ: [32 * 32]}, WEIGHT, f"{O_PROJ} has no weight 1024"),
        ({"model.layers.0.mlp": [0]}, NEURON, "is a LlamaMLP, not a linear module"),
        ({"": [0]}, NEURON, "is a LlamaForCausalLM, not a linear module"),
        ({"model.layers.2.mlp.down_proj": [0]}, NEURON, "no module model.layers.2.mlp.down_proj"),
        ({"absent": [0]}, NEURON, "no module absent"),
        ({f"{SECOND}.weight": [0]}, NEURON, f"no module {SECOND}.weight"),
    ],
    ids=str,
)
def test_what_does_not_exist_is_refused_and_nothing_is_touched(
    model: LlamaForCausalLM, indices: dict[str, list[int]], granularity: Any, complaint: str
) -> None:
    before = weight_bytes(model)
    selection = select_components({FIRST: [0]} | indices, granularity)
    if granularity is HEAD:
        selection = select_components(indices, granularity)
    with pytest.raises(ValueError, match=complaint):
        pruned(model, selection).__enter__()
    assert weight_bytes(model) == before


def test_a_given_head_size_is_used(model: LlamaForCausalLM) -> None:
    with pruned(model, select_components({O_PROJ: [5]}, HEAD), head_dim=4):
        zero = (model.get_submodule(O_PROJ).weight == 0).all(0).nonzero().flatten()
    assert zero.tolist() == [20, 21, 22, 23]


def test_heads_that_do_not_divide_the_inputs_are_refused(model: LlamaForCausalLM) -> None:
    model.config.num_attention_heads = 5
    with pytest.raises(ValueError, match="32 inputs are not 5 heads of one size; give head_dim"):
        pruned(model, select_components({O_PROJ: [0]}, HEAD)).__enter__()


def test_gradients_and_flags_are_left_alone(model: LlamaForCausalLM) -> None:
    with pruned(model, CHOSEN):
        assert torch.is_grad_enabled()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("llama neurons", [48]),
        ("llama heads", [4, 4]),
        ("llama weights", [32 * 32, 32 * 48]),
        ("gpt2 neurons", [64]),
        ("gpt2 heads", [4]),
        ("gpt2 weights", [16 * 48]),
        ("mixtral neurons", [3 * 24]),
        ("mixtral weights", [8 * 16, 3 * 48 * 16, 3 * 16 * 24]),
        ("qwen3 moe weights", [3 * 16 * 8, 3 * 16 * 16]),
        ("qwen3 moe heads", [4]),
    ],
)
def test_modules_say_how_many_components_they_have(name: str, counts: list[int]) -> None:
    case = CASES[name]
    assert count_available(case.build(), case.selection) == dict(
        zip(case.indices, counts, strict=True)
    )
