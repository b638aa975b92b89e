"""What a compression hands over: a patch, or weight files that load in place of the base's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from excise.names import Granularity, JobFile
from tests.tiny import save_tiny_checkpoint
from workers.domain import Selection
from workers.families import find_family, find_linear_modules, linear_weight
from workers.kinds.compression.package import choose_files, read_weight_files
from workers.pruning.patch import Patch, apply_patch
from workers.pruning.patch_building import build_patch
from workers.pruning.patch_format import serialise_patch
from workers.pruning.safetensors_files import compute_checkpoint_sha256
from workers.stages.packaging import INDEX_NAME, MEDIA_TYPES


def build_compression(base: Path, share: float) -> Patch:
    """The patch that sets that share of all linear weights to zero."""
    model = AutoModelForCausalLM.from_pretrained(base)
    indices = {}
    for name, module in find_linear_modules(model, find_family(model)).items():
        count = linear_weight(module).numel()
        indices[name] = torch.arange(int(share * count), dtype=torch.int64)
    return build_patch(base, Selection(Granularity.WEIGHT, indices))


@pytest.mark.parametrize("shard_size", ["50GB", "20KB"])
def test_weight_files_load_in_place_of_the_bases(tmp_path: Path, shard_size: str) -> None:
    base = save_tiny_checkpoint(tmp_path / "base", shard_size=shard_size)
    patch = build_compression(base, 0.5)
    apply_patch(patch, base, tmp_path / "compressed")
    files = read_weight_files(tmp_path / "compressed")
    is_sharded = shard_size == "20KB"
    assert (INDEX_NAME in files) is is_sharded
    assert (len(files) > 2) is is_sharded
    if is_sharded:  # the index names every shard that is handed over, and no other
        shards = set(json.loads(files[INDEX_NAME])["weight_map"].values())
        assert shards == set(files) - {INDEX_NAME}

    rebuilt = tmp_path / "rebuilt"
    rebuilt.mkdir()
    shutil.copy(base / "config.json", rebuilt)
    for name, data in files.items():
        (rebuilt / name).write_bytes(data)
    assert compute_checkpoint_sha256(rebuilt) == patch.corrected_sha256
    model = AutoModelForCausalLM.from_pretrained(rebuilt)
    weights = [linear_weight(m) for m in find_linear_modules(model, find_family(model)).values()]
    assert all((weight == 0).float().mean() >= 0.5 - 1 / weight.numel() for weight in weights)


def test_the_smaller_of_patch_and_weights_is_given(tmp_path: Path) -> None:
    base = save_tiny_checkpoint(tmp_path / "base", shard_size="20KB")
    small, large = build_compression(base, 0.1), build_compression(base, 0.99)
    assert choose_files(base, small) == {JobFile.PATCH: serialise_patch(small)}
    files = choose_files(base, large)
    size = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    assert len(serialise_patch(large)) > size >= len(serialise_patch(small))
    assert JobFile.PATCH not in files
    assert INDEX_NAME in files


def test_an_index_is_served_as_json() -> None:
    assert MEDIA_TYPES[INDEX_NAME] == "application/json"
