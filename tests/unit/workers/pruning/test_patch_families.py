"""Patches of every granularity on checkpoints as the hub stores them, against pruning in memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.tiny import select_components
from tests.unit.workers.pruning.cases import CASES, HEAD, NEURON, Case
from tests.unit.workers.pruning.test_components import draw_means
from workers.pruning.components import pruned
from workers.pruning.patch import (
    PatchError,
    apply_patch,
    build_patch,
    parse_patch,
    revert_patch,
    serialise_patch,
)
from workers.pruning.safetensors_files import StoredTensor
from workers.pruning.selection import list_indices
from workers.pruning.stored_names import find_stored

by_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def read_files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def assert_equal_weights(folder: Path, model: PreTrainedModel) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
    for name, values in model.state_dict().items():
        assert loaded[name].dtype == values.dtype
        assert torch.equal(loaded[name], values), name


@by_case
@pytest.mark.parametrize("shard_size", ["50GB", "4KB"])
def test_applying_is_pruning_in_memory_and_reverting_gives_every_byte_back(
    case: Case, shard_size: str, tmp_path: Path
) -> None:
    model = case.build()
    model.save_pretrained(tmp_path / "base", max_shard_size=shard_size)
    assert (len(list((tmp_path / "base").glob("*.safetensors"))) > 1) is (shard_size == "4KB")
    patch = parse_patch(serialise_patch(build_patch(tmp_path / "base", case.selection)))
    assert list_indices(patch.selection) == case.indices
    assert patch.granularity is case.granularity
    apply_patch(patch, tmp_path / "base", tmp_path / "corrected")
    revert_patch(patch, tmp_path / "corrected", tmp_path / "back")
    with pruned(model, case.selection):
        assert_equal_weights(tmp_path / "corrected", model)
    assert read_files(tmp_path / "back") == read_files(tmp_path / "base")
    assert read_files(tmp_path / "corrected") != read_files(tmp_path / "base")


@by_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scaling_rounds_as_in_memory(case: Case, dtype: torch.dtype, tmp_path: Path) -> None:
    model = case.build(dtype)
    model.save_pretrained(tmp_path / "base")
    patch = parse_patch(serialise_patch(build_patch(tmp_path / "base", case.selection, scale=0.3)))
    assert (patch.operation, patch.scale) == ("scale", 0.3)
    apply_patch(patch, tmp_path / "base", tmp_path / "corrected")
    revert_patch(patch, tmp_path / "corrected", tmp_path / "back")
    with pruned(model, case.selection, scale=0.3):
        assert_equal_weights(tmp_path / "corrected", model)
    assert read_files(tmp_path / "back") == read_files(tmp_path / "base")


WITH_BIAS = {name: case for name, case in CASES.items() if name[:4] in ("gpt2", "opt ", "neox")}


@pytest.mark.parametrize("case", WITH_BIAS.values(), ids=WITH_BIAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mean_goes_into_the_stored_bias(case: Case, dtype: torch.dtype, tmp_path: Path) -> None:
    model = case.build(dtype)
    model.save_pretrained(tmp_path / "base")
    means = draw_means(model, case.selection)
    built = build_patch(tmp_path / "base", case.selection, replacement=means, scale=0.25)
    patch = parse_patch(serialise_patch(built))
    assert patch.operation == "mean"
    assert len(patch.biases) == len(case.indices)
    apply_patch(patch, tmp_path / "base", tmp_path / "corrected")
    revert_patch(patch, tmp_path / "corrected", tmp_path / "back")
    with pruned(model, case.selection, replacement=means, scale=0.25):
        assert_equal_weights(tmp_path / "corrected", model)
    assert read_files(tmp_path / "back") == read_files(tmp_path / "base")


@pytest.mark.parametrize("name", ["llama neurons", "mixtral neurons"])
def test_a_mean_without_a_stored_bias_is_refused(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    case.build().save_pretrained(tmp_path / "base")
    with pytest.raises(PatchError, match=r"no bias beside .* to hold a mean; ablate by zero"):
        build_patch(tmp_path / "base", case.selection, replacement={})


def test_means_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    case = CASES["opt neurons"]
    case.build().save_pretrained(tmp_path / "base")
    (module,) = case.indices
    for means in ({}, {module: torch.ones(23)}, {module: torch.ones(24, 1)}):
        with pytest.raises(PatchError, match="needs its 24 mean activations"):
            build_patch(tmp_path / "base", case.selection, replacement=means)


def rename(folder: Path, old: str, new: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {name.replace(old, new, 1): values for name, values in tensors.items()},
        folder / "model.safetensors",
    )


@pytest.mark.parametrize("name", ["gpt2 neurons", "gpt2 heads", "gpt2 weights"])
def test_names_without_their_first_part_are_found(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    model = case.build()
    model.save_pretrained(tmp_path / "base")
    rename(tmp_path / "base", "transformer.", "")  # as GPT-2 stands on the hub
    patch = build_patch(tmp_path / "base", case.selection)
    assert all(stored.startswith("h.") for stored in patch.weights)
    assert list_indices(patch.selection) == case.indices
    apply_patch(patch, tmp_path / "base", tmp_path / "corrected")
    with pruned(model, case.selection):
        assert_equal_weights(tmp_path / "corrected", model)


def test_fused_experts_on_disk_are_found(tmp_path: Path) -> None:
    case = CASES["mixtral neurons"]
    (module,) = case.indices
    weight = case.build().get_parameter(module).detach()
    save_file({module: weight}, tmp_path / "model.safetensors")
    patch = build_patch(tmp_path, case.selection)
    assert list(patch.weights) == [module]
    apply_patch(patch, tmp_path, tmp_path.with_name("corrected"))
    expected = weight.clone()
    for index in case.indices[module]:
        expected[index // 24, :, index % 24] = 0
    found = load_file(tmp_path.with_name("corrected") / "model.safetensors")[module]
    assert torch.equal(found, expected)


def test_experts_keep_to_their_own_matrices(tmp_path: Path) -> None:
    case = CASES["mixtral neurons"]
    case.build().save_pretrained(tmp_path / "base")
    patch = build_patch(tmp_path / "base", case.selection)
    stem = "model.layers.1.block_sparse_moe.experts"
    found = {
        name: (change.first, change.indices.tolist()) for name, change in patch.weights.items()
    }
    assert found == {
        f"{stem}.0.w2.weight": (0, [0, 23]),
        f"{stem}.1.w2.weight": (24, [0]),
        f"{stem}.2.w2.weight": (48, [23]),
    }


def test_an_expert_s_gates_lie_before_its_up_projections(tmp_path: Path) -> None:
    case = CASES["mixtral weights"]
    case.build().save_pretrained(tmp_path / "base")
    patch = build_patch(tmp_path / "base", case.selection)
    stem = "model.layers.1.block_sparse_moe.experts"
    found = {
        name.removeprefix(f"{stem}."): (change.first, change.indices.tolist())
        for name, change in patch.weights.items()
        if name.startswith(stem)
    }
    assert found == {
        "0.w1.weight": (0, [0, 383]),
        "0.w3.weight": (384, [0, 383]),
        "1.w1.weight": (768, [0]),
        "1.w3.weight": (1152, [48]),
        "2.w3.weight": (1920, [383]),
        "0.w2.weight": (0, [0, 383]),
        "1.w2.weight": (384, [0]),
        "2.w2.weight": (768, [383]),
    }


def test_orientation_comes_from_the_config_or_the_caller(tmp_path: Path) -> None:
    case = CASES["gpt2 neurons"]
    (module,) = case.indices
    case.build().save_pretrained(tmp_path)
    rows = build_patch(tmp_path, case.selection).weights[f"{module}.weight"].original
    assert rows.shape == (2, 16)
    (tmp_path / "config.json").unlink()
    given = build_patch(tmp_path, case.selection, transposed=True)
    assert np.array_equal(given.weights[f"{module}.weight"].original, rows)
    with pytest.raises(PatchError, match="input feature 63"):
        build_patch(tmp_path, case.selection)


def test_head_size_comes_from_the_config_or_the_caller(tmp_path: Path) -> None:
    case = CASES["llama heads"]
    case.build().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert build_patch(tmp_path, case.selection).layout.head_dim == 8
    (tmp_path / "config.json").write_text(json.dumps({"text_config": config}))
    assert build_patch(tmp_path, case.selection).layout.head_dim == 8
    (tmp_path / "config.json").unlink()
    with pytest.raises(PatchError, match="give head_dim"):
        build_patch(tmp_path, case.selection)
    assert build_patch(tmp_path, case.selection, head_dim=8).layout.head_dim == 8


@pytest.mark.parametrize(
    ("name", "index", "complaint"),
    [
        ("llama heads", 4, "with head 4"),
        ("llama weights", 32 * 48, "with weight 1536"),
        ("mixtral neurons", 72, "with input feature 72"),
    ],
)
def test_components_beyond_the_checkpoint_are_refused(
    name: str, index: int, complaint: str, tmp_path: Path
) -> None:
    case = CASES[name]
    case.build().save_pretrained(tmp_path)
    module = list(case.indices)[-1]
    with pytest.raises(PatchError, match=complaint):
        build_patch(tmp_path, select_components({module: [0, index]}, case.granularity))


def stored(*names: str) -> dict[str, StoredTensor]:
    return {name: StoredTensor(name, Path("x"), "F32", (2, 2), 0, 16) for name in names}


@pytest.mark.parametrize(
    ("names", "module", "expected"),
    [
        (("a.h.0.c.weight",), "a.h.0.c", ["a.h.0.c.weight"]),
        (("h.0.c.weight", "h.10.c.weight"), "a.h.0.c", ["h.0.c.weight"]),
        (("model.a.h.0.c.weight",), "a.h.0.c", ["model.a.h.0.c.weight"]),
        (("h.0.c.weight", "a.h.0.c.weight"), "a.h.0.c", ["a.h.0.c.weight"]),
        (("h.10.c.weight", "xh.0.c.weight", "c.weight", "weight"), "a.h.0.c", []),
        (("a.h.0.c.bias",), "a.h.0.c", []),
        (
            ("m.1.mlp.experts.1.down_proj.weight", "m.1.mlp.experts.0.down_proj.weight"),
            "m.1.mlp.experts.down_proj",
            ["m.1.mlp.experts.0.down_proj.weight", "m.1.mlp.experts.1.down_proj.weight"],
        ),
        (
            ("1.block_sparse_moe.experts.0.w2.weight", "1.block_sparse_moe.experts.2.w2.weight"),
            "m.1.mlp.experts.down_proj",
            ["1.block_sparse_moe.experts.0.w2.weight"],
        ),
        (
            tuple(
                f"m.1.mlp.experts.{expert}.{projection}.weight"
                for projection in ("up_proj", "gate_proj", "down_proj")
                for expert in (1, 0)
            ),
            "m.1.mlp.experts.gate_up_proj",
            [
                f"m.1.mlp.experts.{expert}.{projection}.weight"
                for expert in (0, 1)
                for projection in ("gate_proj", "up_proj")
            ],
        ),
        (
            (
                "1.block_sparse_moe.experts.0.w1.weight",
                "1.block_sparse_moe.experts.0.w3.weight",
                "1.block_sparse_moe.experts.1.w1.weight",
            ),
            "m.1.mlp.experts.gate_up_proj",
            ["1.block_sparse_moe.experts.0.w1.weight", "1.block_sparse_moe.experts.0.w3.weight"],
        ),
    ],
)
def test_stored_names(names: tuple[str, ...], module: str, expected: list[str]) -> None:
    assert [tensor.name for tensor in find_stored(stored(*names), module)] == expected


def test_a_name_that_fits_several_tensors_is_refused(tmp_path: Path) -> None:
    tensors = {"x.h.0.c.weight": torch.ones(2, 2), "y.h.0.c.weight": torch.ones(2, 2)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(PatchError, match=r"may be any of x.h.0.c.weight, y.h.0.c.weight"):
        build_patch(tmp_path, select_components({"h.0.c": [0]}, NEURON))


def test_two_modules_of_one_stored_tensor_are_refused(tmp_path: Path) -> None:
    save_file({"h.0.c.weight": torch.ones(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(PatchError, match="and another module are both"):
        build_patch(tmp_path, select_components({"x.h.0.c": [0], "y.h.0.c": [0]}, NEURON))


def test_heads_and_neurons_of_one_matrix_are_told_apart(tmp_path: Path) -> None:
    case = CASES["opt heads"]
    case.build().save_pretrained(tmp_path)
    data = serialise_patch(build_patch(tmp_path, case.selection))
    (module,) = case.indices
    neurons = build_patch(tmp_path, select_components({module: [0, 1, 2, 3]}, NEURON))
    assert parse_patch(data).granularity is HEAD
    assert parse_patch(data).corrected_sha256 == neurons.corrected_sha256
    assert data != serialise_patch(neurons)
