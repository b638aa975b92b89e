from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.tiny import weight_bytes
from tests.unit.workers.publishing.cases import build_pruned
from workers.pruning.patch import apply_patch, build_patch
from workers.publishing.corrected import corrected


@pytest.mark.parametrize("by_mean", [False, True])
@pytest.mark.parametrize("name", ["opt", "gpt2"])
def test_in_memory_it_is_the_corrected_checkpoint(name: str, by_mean: bool, tmp_path: Path) -> None:
    case = build_pruned(name, tmp_path / "base")
    means = {module: torch.linspace(-1, 1, 48) for module in case.selection.indices}
    patch = build_patch(
        case.folder, case.selection, scale=0.5, replacement=means if by_mean else None
    )
    apply_patch(patch, case.folder, tmp_path / "corrected")
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "corrected").state_dict()
    before = weight_bytes(case.model)
    with corrected(case.model, patch, case.folder):
        found = case.model.state_dict()
        assert all(torch.equal(found[key], values) for key, values in expected.items())
        assert weight_bytes(case.model) != before
    assert weight_bytes(case.model) == before
