"""Pruning in memory: exactly the named columns, put back to the bit; matched random controls."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

from tests.tiny import MODULES, NEURONS, weight_bytes
from workers.domain import Component
from workers.pruning.components import draw_random_components, group_by_module, pruned

FIRST, SECOND = MODULES
CHOSEN = (Component(SECOND, 47), Component(FIRST, 3), Component(SECOND, 0), Component(FIRST, 11))
SIZES = dict.fromkeys(MODULES, NEURONS)
IDS = torch.tensor([[1, 2, 3, 4, 5, 60]])


def logits_of(model: LlamaForCausalLM) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def test_groups_are_sorted_whatever_the_order() -> None:
    expected = {FIRST: [3, 11], SECOND: [0, 47]}
    assert group_by_module(CHOSEN) == expected
    assert list(group_by_module(CHOSEN)) == list(MODULES)
    assert group_by_module(()) == {}
    assert group_by_module(CHOSEN * 3) == expected
    assert group_by_module(iter(CHOSEN)) == expected


def test_exactly_the_named_columns_are_zero_inside(model: LlamaForCausalLM) -> None:
    before = {name: module.clone() for name, module in model.state_dict().items()}
    with pruned(model, CHOSEN):
        for name, values in model.state_dict().items():
            expected = before[name].clone()
            if name.endswith("down_proj.weight"):
                expected[:, group_by_module(CHOSEN)[name.removesuffix(".weight")]] = 0
            assert torch.equal(values, expected), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_byte_comes_back(model: LlamaForCausalLM, dtype: torch.dtype) -> None:
    model.to(dtype)
    weight = model.get_submodule(FIRST).weight.detach()
    weight[0, 3], weight[1, 3], weight[2, 3] = -0.0, torch.inf, torch.nan
    before = weight_bytes(model)
    with pruned(model, CHOSEN):
        assert weight_bytes(model) != before
    assert weight_bytes(model) == before


def test_every_byte_comes_back_after_an_exception(model: LlamaForCausalLM) -> None:
    before = weight_bytes(model)
    with pytest.raises(KeyboardInterrupt), pruned(model, CHOSEN):
        raise KeyboardInterrupt
    assert weight_bytes(model) == before


def test_naming_a_component_twice_is_naming_it_once(model: LlamaForCausalLM) -> None:
    before = weight_bytes(model)
    with pruned(model, CHOSEN):
        once = weight_bytes(model)
    with pruned(model, CHOSEN * 2):
        assert weight_bytes(model) == once
    assert weight_bytes(model) == before


def test_pruning_nothing_changes_no_logit(model: LlamaForCausalLM) -> None:
    plain = logits_of(model)
    with pruned(model, ()):
        assert torch.equal(logits_of(model), plain)


def test_pruning_a_neuron_is_silencing_it(model: LlamaForCausalLM) -> None:
    plain = logits_of(model)
    with pruned(model, CHOSEN):
        by_columns = logits_of(model)

    def silence(indices: list[int]):
        def hook(module, args):
            silenced = args[0].clone()
            silenced[..., indices] = 0
            return (silenced,)

        return hook

    for name, indices in group_by_module(CHOSEN).items():
        model.get_submodule(name).register_forward_pre_hook(silence(indices))
    torch.testing.assert_close(logits_of(model), by_columns)
    assert not torch.allclose(plain, by_columns)


def test_contexts_nest(model: LlamaForCausalLM) -> None:
    before = weight_bytes(model)
    with pruned(model, CHOSEN[:2]):
        outer = weight_bytes(model)
        with pruned(model, CHOSEN[1:]):  # one component in both
            pass
        assert weight_bytes(model) == outer
    assert weight_bytes(model) == before


@pytest.mark.parametrize(
    "wrong",
    [
        Component(SECOND, NEURONS),
        Component(SECOND, -1),
        Component(SECOND, -NEURONS),
        Component("model.layers.0.mlp", 0),
        Component("", 0),
    ],
    ids=["index", "negative", "first from behind", "kind", "whole model"],
)
def test_what_does_not_exist_is_refused_and_nothing_is_touched(
    model: LlamaForCausalLM, wrong: Component
) -> None:
    before = weight_bytes(model)
    with (
        pytest.raises(ValueError, match=f"{wrong.module} has no input feature {wrong.index}"),
        pruned(model, (*CHOSEN, wrong)),
    ):
        pass
    assert weight_bytes(model) == before


@pytest.mark.parametrize("module", ["model.layers.2.mlp.down_proj", "absent", f"{SECOND}.weight"])
def test_an_unknown_module_is_refused_and_nothing_is_touched(
    model: LlamaForCausalLM, module: str
) -> None:
    before = weight_bytes(model)
    with (
        pytest.raises(ValueError, match=f"the model has no module {module}"),
        pruned(model, (*CHOSEN, Component(module, 0))),
    ):
        pass
    assert weight_bytes(model) == before


def test_gradients_and_flags_are_left_alone(model: LlamaForCausalLM) -> None:
    with pruned(model, CHOSEN):
        pass
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("seed", range(20))
def test_random_controls_match_by_module_and_avoid_the_chosen(seed: int) -> None:
    drawn = draw_random_components(CHOSEN, SIZES, seed)
    counts = {name: len(indices) for name, indices in group_by_module(drawn).items()}
    assert counts == {FIRST: 2, SECOND: 2}
    assert len(set(drawn)) == len(drawn)
    assert not set(drawn) & set(CHOSEN)
    assert all(0 <= component.index < NEURONS for component in drawn)
    assert list(drawn) == sorted(drawn)
    assert drawn == draw_random_components(CHOSEN[::-1], SIZES, seed)


def test_random_controls_follow_the_seed_only() -> None:
    state = torch.get_rng_state()
    draws = {draw_random_components(CHOSEN, SIZES, seed) for seed in range(20)}
    assert torch.equal(state, torch.get_rng_state())
    assert len(draws) == 20


def test_random_controls_reach_every_free_neuron() -> None:
    chosen = [Component(FIRST, index) for index in range(0, NEURONS, 2)]
    drawn = draw_random_components(chosen, SIZES, 0)
    assert [component.index for component in drawn] == list(range(1, NEURONS, 2))


def test_too_few_neurons_for_a_control_is_an_error() -> None:
    chosen = [Component(FIRST, index) for index in range(NEURONS // 2 + 1)]
    with pytest.raises(ValueError, match=f"{FIRST} has only 23 other neurons"):
        draw_random_components(chosen, SIZES, 0)
