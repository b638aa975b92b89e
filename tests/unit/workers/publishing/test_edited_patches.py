"""A patch that was edited by hand is exported in no form, as `apply` refuses it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from excise.names import ExportForm
from tests.unit.workers.publishing.cases import Pruned, build_pruned, build_pruned_weights
from workers.pruning.patch import Patch, PatchError, serialise_patch
from workers.pruning.patch_format import WeightChange
from workers.publishing.adapters import find_rank
from workers.publishing.exporting import Export, export_correction

FIRST = "model.layers.0.mlp.down_proj.weight"
SECOND = "model.layers.1.mlp.down_proj.weight"
QUERY = "model.layers.0.self_attn.q_proj.weight"
OUTPUT = "model.layers.0.self_attn.o_proj.weight"

Edit = Callable[[Patch], Patch]


def change(name: str, edit: Callable[[WeightChange], WeightChange]) -> Edit:
    """Return an edit of one weight's change."""

    def apply(patch: Patch) -> Patch:
        return replace(patch, weights={**patch.weights, name: edit(patch.weights[name])})

    return apply


def swap_modules(patch: Patch) -> Patch:
    """Two matrices of the same shape take each other's module."""
    first, second = patch.weights[QUERY], patch.weights[OUTPUT]
    names = (
        (QUERY, replace(first, module=second.module)),
        (OUTPUT, replace(second, module=first.module)),
    )
    return replace(patch, weights={**patch.weights, **dict(names)})


def point_beyond(own: WeightChange) -> WeightChange:
    """An index that the matrix does not have."""
    return replace(own, indices=np.append(own.indices[:-1], np.int32(10**6)))


def zero_originals(own: WeightChange) -> WeightChange:
    """Values that would not bring the base back."""
    return replace(own, original=np.zeros_like(own.original))


EDITS: dict[str, tuple[Edit, str]] = {
    "moved": (change(SECOND, lambda own: replace(own, indices=own.indices + 1)), "original values"),
    "scale": (lambda patch: replace(patch, scale=0.5), "the patch promised"),
    "hash": (lambda patch: replace(patch, corrected_sha256="0" * 64), "the patch promised 000"),
    "originals": (change(FIRST, zero_originals), "original values .* not those of the base"),
    "beyond": (change(FIRST, point_beyond), "no matrix of .* 1000000"),
    "twice": (
        change(SECOND, lambda own: replace(own, module=FIRST.removesuffix(".weight"), first=9)),
        "not where the patch says",
    ),
    "first": (change(FIRST, lambda own: replace(own, first=1)), "not where the patch says"),
    "transposed": (
        lambda patch: replace(patch, layout=replace(patch.layout, transposed=True)),
        "stored transposed",
    ),
}


@pytest.mark.parametrize("form", [ExportForm.PEFT, ExportForm.GGUF])
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("build", [build_pruned, build_pruned_weights], ids=["neuron", "weight"])
def test_an_edited_patch_is_not_exported(
    build: Callable[..., Pruned], edit: str, form: ExportForm, tmp_path: Path
) -> None:
    case = build("llama", tmp_path / "base")
    change_patch, message = EDITS[edit]
    data = serialise_patch(change_patch(case.patch))
    with pytest.raises(PatchError, match=message):
        export_correction(Export(data, case.folder, "tiny", form), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", [ExportForm.PEFT, ExportForm.GGUF])
def test_modules_that_are_swapped_are_refused(form: ExportForm, tmp_path: Path) -> None:
    case = build_pruned_weights("llama", tmp_path / "base")
    data = serialise_patch(swap_modules(case.patch))
    with pytest.raises(PatchError, match="not where the patch says"):
        export_correction(Export(data, case.folder, "tiny", form), tmp_path / "out")


def test_the_rank_of_a_patch_with_an_impossible_index_is_a_clean_error(tmp_path: Path) -> None:
    """The service asks for the rank before anything else."""
    case = build_pruned_weights("llama", tmp_path / "base")
    with pytest.raises(PatchError, match="with weight 1000000"):
        find_rank(change(FIRST, point_beyond)(case.patch), case.folder)
