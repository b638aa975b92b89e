"""The patch: build, write, apply, revert; the base comes back byte for byte or nothing happens."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from excise.names import Granularity
from tests.tiny import (
    HIDDEN,
    MODULES,
    NEURONS,
    build_tiny_model,
    save_tiny_checkpoint,
    select_neurons,
)
from workers.models.checkpoints import load_checkpoint
from workers.pruning.components import pruned
from workers.pruning.patch import Patch, WrongCheckpointError, apply_patch, revert_patch
from workers.pruning.patch_building import build_patch
from workers.pruning.patch_format import WeightChange, parse_patch, serialise_patch
from workers.pruning.safetensors_files import SafetensorsFormatError, compute_checkpoint_sha256
from workers.pruning.selection import list_indices
from workers.pruning.stored_matrix import PatchError

FIRST, SECOND = MODULES
INDICES = {FIRST: [3, 11], SECOND: [0, 47]}
CHOSEN = select_neurons(INDICES)
INTEGERS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}
ODD_BITS = {
    torch.float32: (-(2**31), 0x7FC00001, 0x7F800001, 0x7F800000, 1),
    torch.bfloat16: (-(2**15), 0x7FC1, 0x7F81, 0x7F80, 1),
    torch.float16: (-(2**15), 0x7E01, 0x7C01, 0x7C00, 1),
}
"""−0.0, a quiet and a signalling NaN with payloads, infinity, the smallest subnormal."""


def read_files(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def plant_odd_bits(model: LlamaForCausalLM, dtype: torch.dtype) -> None:
    bits = model.get_submodule(FIRST).weight.data.view(INTEGERS[dtype])
    for row, value in enumerate(ODD_BITS[dtype]):
        bits[row, 3] = value


@pytest.fixture(scope="module")
def patch(checkpoint: Path) -> Patch:
    return build_patch(checkpoint, CHOSEN)


@pytest.fixture
def corrected(checkpoint: Path, patch: Patch, tmp_path: Path) -> Path:
    apply_patch(patch, checkpoint, tmp_path / "corrected")
    return tmp_path / "corrected"


@pytest.mark.parametrize("dtype", list(ODD_BITS))
@pytest.mark.parametrize("shard_size", ["50GB", "20KB"])
def test_the_base_comes_back_byte_for_byte(
    tmp_path: Path, dtype: torch.dtype, shard_size: str
) -> None:
    model = build_tiny_model().to(dtype)
    plant_odd_bits(model, dtype)
    base = save_tiny_checkpoint(tmp_path / "base", model, shard_size)
    assert (len(list(base.glob("*.safetensors"))) > 1) is (shard_size == "20KB")
    before = read_files(base)
    patch = parse_patch(serialise_patch(build_patch(base, CHOSEN)))
    apply_patch(patch, base, tmp_path / "corrected")
    revert_patch(patch, tmp_path / "corrected", tmp_path / "back")
    assert read_files(base) == before
    assert read_files(tmp_path / "back") == before
    changed = read_files(tmp_path / "corrected")
    assert changed.keys() == before.keys()
    differing = {name for name in before if changed[name] != before[name]}
    assert differing
    assert all(name.endswith(".safetensors") for name in differing)


def test_the_originals_hold_the_exact_bits(tmp_path: Path) -> None:
    model = build_tiny_model().to(torch.bfloat16)
    plant_odd_bits(model, torch.bfloat16)
    patch = build_patch(save_tiny_checkpoint(tmp_path / "base", model), CHOSEN)
    kept = patch.weights[f"{FIRST}.weight"].original
    assert kept.dtype == np.uint16
    assert kept.shape == (2, HIDDEN)
    expected = [bits % 2**16 for bits in ODD_BITS[torch.bfloat16]]
    assert kept[0, :5].tolist() == expected


def test_applying_is_pruning_in_memory(checkpoint: Path, corrected: Path) -> None:
    ids = torch.tensor([[5, 6, 7, 8, 90]])
    base, other = load_checkpoint(checkpoint).model, load_checkpoint(corrected).model
    with torch.no_grad():
        plain = base(ids).logits
        with pruned(base, CHOSEN):
            in_memory = base(ids).logits
        on_disk = other(ids).logits
    assert torch.equal(on_disk, in_memory)
    assert not torch.equal(on_disk, plain)


def test_only_the_columns_are_zero_in_the_corrected_checkpoint(
    checkpoint: Path, corrected: Path
) -> None:
    before = load_checkpoint(checkpoint).model.state_dict()
    after = load_checkpoint(corrected).model.state_dict()
    for name, values in before.items():
        if (module := name.removesuffix(".weight")) in INDICES:
            values[:, INDICES[module]] = 0
        assert torch.equal(after[name], values), name


def test_a_patch_says_what_it_removes(patch: Patch, checkpoint: Path, corrected: Path) -> None:
    assert list_indices(patch.selection) == INDICES
    assert patch.granularity is Granularity.NEURON
    assert patch.base_sha256 == compute_checkpoint_sha256(checkpoint)
    assert patch.corrected_sha256 == compute_checkpoint_sha256(corrected)
    assert patch.base_sha256 != patch.corrected_sha256


def test_a_patch_survives_its_bytes(patch: Patch) -> None:
    parsed = parse_patch(serialise_patch(patch))
    assert parsed.weights.keys() == patch.weights.keys()
    for name, change in patch.weights.items():
        other = parsed.weights[name]
        assert (other.module, other.first) == (change.module, change.first)
        for one, two in ((other.indices, change.indices), (other.original, change.original)):
            assert one.dtype == two.dtype
            assert np.array_equal(one, two)
    for field in ("base_sha256", "corrected_sha256", "layout", "scale", "biases"):
        assert getattr(parsed, field) == getattr(patch, field)


def test_equal_patches_have_equal_bytes(patch: Patch, checkpoint: Path, tmp_path: Path) -> None:
    data = serialise_patch(patch)
    backwards = select_neurons(dict(reversed(INDICES.items())))
    assert serialise_patch(build_patch(checkpoint, backwards)) == data
    assert serialise_patch(parse_patch(data)) == data
    sharded = save_tiny_checkpoint(tmp_path / "sharded", shard_size="20KB")
    assert serialise_patch(build_patch(sharded, CHOSEN)) == data
    assert (
        serialise_patch(build_patch(checkpoint, select_neurons({FIRST: [3, 11], SECOND: [0]})))
        != data
    )


def test_a_patch_fits_the_same_weights_sharded_otherwise(patch: Patch, tmp_path: Path) -> None:
    sharded = save_tiny_checkpoint(tmp_path / "sharded", shard_size="20KB")
    apply_patch(patch, sharded, tmp_path / "corrected")
    assert compute_checkpoint_sha256(tmp_path / "corrected") == patch.corrected_sha256


def test_a_read_only_base_and_linked_files_are_fine(
    patch: Patch, checkpoint: Path, tmp_path: Path
) -> None:
    # The hub's cache keeps a snapshot as links to blobs.
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    shutil.copytree(checkpoint, blobs)
    snapshot.mkdir(parents=True)
    for file in blobs.iterdir():
        file.chmod(0o444)
        (snapshot / file.name).symlink_to(file)
    before = read_files(blobs)
    apply_patch(patch, snapshot, tmp_path / "corrected")
    assert read_files(blobs) == before
    assert not any(file.is_symlink() for file in (tmp_path / "corrected").iterdir())
    # Root may write to any file; others only where the copy was made writable.
    assert (tmp_path / "corrected" / "model.safetensors").stat().st_mode & 0o200
    assert compute_checkpoint_sha256(tmp_path / "corrected") == patch.corrected_sha256


def test_a_second_set_of_weights_is_neither_hashed_nor_kept(patch: Patch, tmp_path: Path) -> None:
    mistral = save_tiny_checkpoint(tmp_path / "mistral", shard_size="20KB")
    kept = set(read_files(mistral))
    tensors = load_file(min(mistral.glob("model-*.safetensors")))
    second = {f"layers.{name}": values for name, values in tensors.items()}
    save_file(second, mistral / "consolidated.safetensors")
    (mistral / "pytorch_model.bin").write_bytes(b"weights")
    (mistral / "consolidated.safetensors.index.json").write_text('{"weight_map": {}}')
    (mistral / "original").mkdir()
    save_file(second, mistral / "original" / "model.safetensors")
    assert compute_checkpoint_sha256(mistral) == patch.base_sha256
    left_out = apply_patch(patch, mistral, tmp_path / "corrected")
    assert set(read_files(tmp_path / "corrected")) == kept
    assert left_out == (
        "consolidated.safetensors",
        "consolidated.safetensors.index.json",
        "original",
        "pytorch_model.bin",
    )
    assert compute_checkpoint_sha256(tmp_path / "corrected") == patch.corrected_sha256


def test_links_out_of_the_base_are_not_followed(
    patch: Patch, checkpoint: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(checkpoint, tmp_path / "base"))
    (tmp_path / "secret").write_text("secret")
    (base / "chat_template.jinja").symlink_to(tmp_path / "secret")
    with pytest.raises(PatchError, match=r"'chat_template\.jinja' is a link that points outside"):
        apply_patch(patch, base, tmp_path / "corrected")
    assert not (tmp_path / "corrected").exists()


def test_files_of_an_adapter_are_not_kept_beside_corrected_weights(
    patch: Patch, checkpoint: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(checkpoint, tmp_path / "base"))
    (base / "adapter_config.json").write_text("{}")
    with pytest.raises(PatchError, match=r"'adapter_config\.json' is a file of a PEFT adapter"):
        apply_patch(patch, base, tmp_path / "corrected")


def test_missing_parents_of_the_output_are_made(
    patch: Patch, checkpoint: Path, tmp_path: Path
) -> None:
    apply_patch(patch, checkpoint, tmp_path / "some" / "where" / "corrected")
    found = [path.name for path in (tmp_path / "some" / "where").iterdir()]
    assert found == ["corrected"]


@pytest.mark.parametrize("module", [f"{FIRST}x", "model.norm", "lm_head.absent"])
def test_building_refuses_what_the_checkpoint_does_not_have(checkpoint: Path, module: str) -> None:
    with pytest.raises(PatchError, match=f"no matrix {module}.weight"):
        build_patch(checkpoint, select_neurons(INDICES | {module: [0]}))


def test_building_refuses_a_neuron_beyond_the_matrix(checkpoint: Path) -> None:
    with pytest.raises(PatchError, match=f"input feature {NEURONS}"):
        build_patch(checkpoint, select_neurons({FIRST: [3, NEURONS]}))


def test_building_refuses_a_negative_neuron(checkpoint: Path) -> None:
    for index in (-1, -NEURONS):
        with pytest.raises(PatchError, match=f"input feature {index}"):
            build_patch(checkpoint, select_neurons({FIRST: [index, 3]}))


def test_building_refuses_a_neuron_named_twice(checkpoint: Path) -> None:
    for indices in ([3, 3], [5, 3]):
        with pytest.raises(PatchError, match=f"components of {FIRST} are not in ascending order"):
            build_patch(checkpoint, select_neurons({FIRST: indices}))


def test_building_refuses_an_empty_selection(checkpoint: Path) -> None:
    with pytest.raises(PatchError, match="at least one component"):
        build_patch(checkpoint, select_neurons({}))


def test_building_refuses_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(SafetensorsFormatError):
        build_patch(tmp_path, CHOSEN)


def test_building_changes_nothing(tmp_path: Path) -> None:
    base = save_tiny_checkpoint(tmp_path / "base")
    before = read_files(base)
    build_patch(base, CHOSEN)
    assert read_files(base) == before


def assert_refused_without_trace(parent: Path, error: type[Exception], match: str, call) -> None:
    before = read_files(parent), sorted(parent.iterdir())
    with pytest.raises(error, match=match):
        call()
    assert (read_files(parent), sorted(parent.iterdir())) == before


def test_another_base_is_refused(patch: Patch, tmp_path: Path) -> None:
    model = build_tiny_model()
    model.lm_head.weight.data[0, 0] += 1
    other = save_tiny_checkpoint(tmp_path / "other", model)
    match = "apply takes the base"
    output = tmp_path / "out"
    assert_refused_without_trace(
        tmp_path, WrongCheckpointError, match, lambda: apply_patch(patch, other, output)
    )


def test_a_corrected_checkpoint_is_not_corrected_again(
    patch: Patch, corrected: Path, tmp_path: Path
) -> None:
    assert_refused_without_trace(
        tmp_path,
        WrongCheckpointError,
        f"{patch.corrected_sha256}, the patch needs {patch.base_sha256}",
        lambda: apply_patch(patch, corrected, tmp_path / "out"),
    )


def test_a_base_is_not_reverted(patch: Patch, checkpoint: Path, tmp_path: Path) -> None:
    assert_refused_without_trace(
        tmp_path,
        WrongCheckpointError,
        "revert takes the corrected checkpoint",
        lambda: revert_patch(patch, checkpoint, tmp_path / "out"),
    )


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_existing_output_is_refused(
    patch: Patch, checkpoint: Path, tmp_path: Path, kind: str
) -> None:
    output = tmp_path / "out"
    output.write_text("mine") if kind == "file" else output.mkdir()
    assert_refused_without_trace(
        tmp_path, FileExistsError, "out exists", lambda: apply_patch(patch, checkpoint, output)
    )


@pytest.mark.parametrize("place", [".", "out", "deep/er/out", "../base/out", "../link/out"])
@pytest.mark.parametrize("transform", [apply_patch, revert_patch])
def test_an_output_inside_the_source_is_refused(
    patch: Patch, checkpoint: Path, tmp_path: Path, place: str, transform
) -> None:
    source = tmp_path / "base"
    shutil.copytree(checkpoint, source)
    (tmp_path / "link").symlink_to(source)
    assert_refused_without_trace(
        tmp_path,
        PatchError,
        f"lies inside {source}; name a folder outside it",
        lambda: transform(patch, source, source / place),
    )
    assert sorted(file.name for file in source.iterdir()) == sorted(
        file.name for file in checkpoint.iterdir()
    )


def test_an_output_beside_the_source_of_a_longer_name_is_fine(
    patch: Patch, checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint, tmp_path / "base")
    apply_patch(patch, tmp_path / "base", tmp_path / "base-corrected")
    assert compute_checkpoint_sha256(tmp_path / "base-corrected") == patch.corrected_sha256


def change_first(patch: Patch, **changes: object) -> Patch:
    """The patch with another change of the first matrix."""
    name = f"{FIRST}.weight"
    changed = replace(patch.weights[name], **changes)
    return replace(patch, weights=dict(patch.weights) | {name: changed})


@pytest.mark.parametrize(
    "change", [lambda values: values[:, :1], lambda values: values.astype("u2")]
)
def test_originals_of_another_matrix_are_refused(
    patch: Patch, corrected: Path, tmp_path: Path, change
) -> None:
    other = change_first(patch, original=change(patch.weights[f"{FIRST}.weight"].original))
    assert_refused_without_trace(
        tmp_path,
        PatchError,
        "another height or width",
        lambda: revert_patch(other, corrected, tmp_path / "out"),
    )


def test_a_patch_that_breaks_its_promise_leaves_nothing(
    patch: Patch, checkpoint: Path, tmp_path: Path
) -> None:
    lying = replace(patch, corrected_sha256="0" * 64)
    assert_refused_without_trace(
        tmp_path,
        PatchError,
        f"{patch.corrected_sha256}, the patch promised 0000",
        lambda: apply_patch(lying, checkpoint, tmp_path / "out"),
    )


def test_tampered_originals_are_not_reverted_to(
    patch: Patch, corrected: Path, tmp_path: Path
) -> None:
    original = patch.weights[f"{FIRST}.weight"].original.copy()
    original[1, 4] ^= 1
    tampered = change_first(patch, original=original)
    assert_refused_without_trace(
        tmp_path,
        PatchError,
        f"the patch promised {patch.base_sha256}",
        lambda: revert_patch(tampered, corrected, tmp_path / "out"),
    )


def test_a_patch_for_a_matrix_that_is_absent_leaves_nothing(
    patch: Patch, checkpoint: Path, tmp_path: Path
) -> None:
    change = WeightChange("absent", 0, np.array([0], "i4"), np.zeros((1, HIDDEN), "u4"))
    weights = dict(patch.weights) | {"absent.weight": change}
    assert_refused_without_trace(
        tmp_path,
        PatchError,
        r"no matrix absent\.weight",
        lambda: apply_patch(replace(patch, weights=weights), checkpoint, tmp_path / "out"),
    )


def test_matrices_of_an_unknown_width_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(
        {f"{FIRST}.weight": torch.zeros(4, 12).to(torch.float8_e4m3fn)}, tmp_path / "x.safetensors"
    )
    with pytest.raises(PatchError, match="dtype F8_E4M3, which a patch cannot hold"):
        build_patch(tmp_path, select_neurons({FIRST: [3]}))
