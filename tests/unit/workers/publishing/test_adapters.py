from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load

from excise.names import Granularity
from tests.tiny import select_components
from tests.tiny_families import DENSE, MIXTURES, build_family_model
from tests.unit.workers.publishing.cases import (
    PROMPTS,
    Pruned,
    build_pruned,
    build_pruned_weights,
    continue_slowly,
)
from workers.families import (
    find_attention_outputs,
    find_components,
    find_family,
    is_transposed,
    linear_weight,
)
from workers.pruning.components import pruned
from workers.pruning.patch import WrongCheckpointError, build_patch
from workers.publishing.adapters import (
    AdapterError,
    AdapterRankError,
    build_adapter,
    factorise,
    find_rank,
    is_served_with_adapters,
)

by_family = pytest.mark.parametrize("name", DENSE)
with_peft = pytest.mark.filterwarnings(  # peft asks transformers in an old way
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)


def load_with_peft(model: torch.nn.Module, folder: Path) -> PeftModel:
    return PeftModel.from_pretrained(model, folder).eval()


@with_peft
@by_family
@pytest.mark.parametrize("build", [build_pruned, build_pruned_weights], ids=["neuron", "weight"])
def test_peft_loads_the_adapter_and_it_is_the_pruned_model(
    build: Callable[..., Pruned], name: str, tmp_path: Path
) -> None:
    case = build(name, tmp_path / "base")
    adapter = build_adapter(case.patch, case.folder, max_rank=8, base_model="tiny")
    (tmp_path / "adapter").mkdir()
    adapter.save(tmp_path / "adapter")
    ids = torch.tensor([PROMPTS[2]])
    with torch.no_grad(), pruned(case.model, case.selection):
        expected = case.model(input_ids=ids).logits
        tokens = [continue_slowly(case.model, prompt, 12)[0] for prompt in PROMPTS]
    with torch.no_grad():
        base = case.model(input_ids=ids).logits
        adapted = load_with_peft(case.model, tmp_path / "adapter")
        found = adapted(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (base - expected).abs().max() > 0.05  # or nothing was compared
    assert [continue_slowly(adapted, prompt, 12)[0] for prompt in PROMPTS] == tokens


@by_family
def test_only_modules_with_pruned_neurons_are_in_it_at_one_rank(name: str, tmp_path: Path) -> None:
    case = build_pruned(name, tmp_path / "base", ([], [3, 4]))
    adapter = build_adapter(case.patch, case.folder, max_rank=8, base_model="tiny")
    (module,) = case.selection.indices
    tensors = load(adapter.weights)
    down = tensors[f"base_model.model.{module}.lora_A.weight"]
    up = tensors[f"base_model.model.{module}.lora_B.weight"]
    assert len(tensors) == 2
    assert (down.shape, up.shape) == ((2, 48), (32, 2))
    assert down.sum(dim=1).tolist() == [1, 1]
    config = json.loads(adapter.config)
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 2, [module])
    assert config["base_model_name_or_path"] == "tiny"


@by_family
def test_single_weights_are_taken_away_exactly(name: str, tmp_path: Path) -> None:
    case = build_pruned_weights(name, tmp_path / "base")
    adapter = build_adapter(case.patch, case.folder, max_rank=3, base_model="tiny")
    tensors = load(adapter.weights)
    modules = find_components(case.model, find_family(case.model), Granularity.WEIGHT)
    assert len(tensors) == 2 * len(modules)
    assert adapter.rank == 3
    for module, linear in modules.items():
        down = tensors[f"base_model.model.{module}.lora_A.weight"]
        up = tensors[f"base_model.model.{module}.lora_B.weight"]
        assert (len(down), up.shape[1]) == (3, 3)
        added = up @ down
        weight = linear_weight(linear).detach()
        expected = torch.zeros(weight.numel())
        chosen = case.selection.indices[module]
        expected[chosen] = -weight.flatten()[chosen]
        expected = expected.view(weight.shape)
        assert torch.equal(added.t() if is_transposed(linear) else added, expected)


def test_the_rank_is_that_of_the_fullest_matrix_and_above_the_limit_it_is_refused(
    tmp_path: Path,
) -> None:
    case = build_pruned_weights("llama", tmp_path / "base", most_lines=1)
    assert find_rank(case.patch, case.folder, 1) == 1
    fuller = build_pruned_weights("llama", tmp_path / "fuller")
    assert find_rank(fuller.patch, fuller.folder) == 3
    with pytest.raises(AdapterRankError, match=r"needs rank 3, .* rank 2 at most.*max_rank 2"):
        find_rank(fuller.patch, fuller.folder, 2)


def test_dampened_weights_keep_their_share(tmp_path: Path) -> None:
    case = build_pruned_weights("qwen2", tmp_path / "base", scale=0.25)
    factors = factorise(case.patch, case.folder)
    module = "model.layers.0.self_attn.k_proj"
    weight = case.model.get_submodule(module).weight.detach()
    added = factors[module].up @ factors[module].down
    chosen = case.selection.indices[module]
    torch.testing.assert_close(added.flatten()[chosen], -0.75 * weight.flatten()[chosen])


def test_values_are_exact_in_the_checkpoints_dtype(tmp_path: Path) -> None:
    case = build_pruned("llama", tmp_path / "base", dtype=torch.bfloat16)
    tensors = load(build_adapter(case.patch, case.folder, max_rank=8, base_model="t").weights)
    weight = case.model.get_submodule("model.layers.0.mlp.down_proj").weight
    up = tensors["base_model.model.model.layers.0.mlp.down_proj.lora_B.weight"]
    assert up.dtype == torch.bfloat16
    assert torch.equal(up[:, :3], -weight[:, [0, 7, 47]])


@with_peft
def test_dampened_neurons_keep_their_share(tmp_path: Path) -> None:
    case = build_pruned("qwen2", tmp_path / "base", scale=0.25)
    adapter = build_adapter(case.patch, case.folder, max_rank=8, base_model="tiny")
    (tmp_path / "adapter").mkdir()
    adapter.save(tmp_path / "adapter")
    ids = torch.tensor([PROMPTS[2]])
    with torch.no_grad(), pruned(case.model, case.selection, scale=0.25):
        expected = case.model(input_ids=ids).logits
    with torch.no_grad():
        found = load_with_peft(case.model, tmp_path / "adapter")(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_equal_patches_give_equal_bytes(tmp_path: Path) -> None:
    case = build_pruned("llama", tmp_path / "base")
    first, second = (
        build_adapter(case.patch, case.folder, max_rank=64, base_model="t") for _ in range(2)
    )
    assert first == second


def test_too_many_neurons_in_a_layer_are_refused_with_a_remedy(tmp_path: Path) -> None:
    case = build_pruned("llama", tmp_path / "base", ([0], list(range(9))))
    assert find_rank(case.patch, case.folder, 9) == 9
    message = r"layers\.1\.mlp\.down_proj needs rank 9, .* rank 8 at most.*max_rank 8"
    with pytest.raises(AdapterRankError, match=message):
        find_rank(case.patch, case.folder, 8)


def test_a_head_is_as_many_features_as_it_is_wide(tmp_path: Path) -> None:
    model = build_family_model("llama")
    model.save_pretrained(tmp_path)
    module = next(iter(find_attention_outputs(model, find_family(model))))
    patch = build_patch(tmp_path, select_components({module: [1]}, Granularity.HEAD))
    (factors,) = factorise(patch, tmp_path).values()
    assert len(factors.down) == 8
    weight = model.get_submodule(module).weight.detach()
    assert torch.equal((factors.up @ factors.down)[:, 8:16], -weight[:, 8:16])


def test_means_and_experts_are_refused(tmp_path: Path) -> None:
    opt = build_pruned("opt", tmp_path / "opt")
    means = {name: torch.ones(48) for name in opt.selection.indices}
    patch = build_patch(opt.folder, opt.selection, replacement=means)
    with pytest.raises(AdapterError, match="replaced by their mean change biases"):
        find_rank(patch, opt.folder, 8)
    mixture = build_pruned(MIXTURES[0], tmp_path / "mixture")
    with pytest.raises(AdapterError, match="holds experts"):
        find_rank(mixture.patch, mixture.folder, 8)
    weights = build_pruned_weights(MIXTURES[1], tmp_path / "weights")
    with pytest.raises(AdapterError, match="holds experts, which adapters here do not change"):
        find_rank(weights.patch, weights.folder, 8)


def test_another_base_is_refused(tmp_path: Path) -> None:
    case = build_pruned("llama", tmp_path / "base")
    other = replace(case.patch, base_sha256="0" * 64)
    with pytest.raises(WrongCheckpointError, match="give its base"):
        build_adapter(other, case.folder, max_rank=8, base_model="t")


def test_architectures_vllm_serves_with_adapters() -> None:
    assert is_served_with_adapters({"architectures": ["OPTForCausalLM"]})
    assert not is_served_with_adapters({"architectures": ["GPT2LMHeadModel"]})
    assert not is_served_with_adapters({})
