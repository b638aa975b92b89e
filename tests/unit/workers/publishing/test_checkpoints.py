from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from tests.unit.workers.publishing.cases import build_pruned
from workers.pruning.components import pruned
from workers.publishing.checkpoints import build_checkpoint


def test_the_corrected_checkpoint_is_the_pruned_model_and_lists_what_a_server_reads(
    tmp_path: Path,
) -> None:
    case = build_pruned("gpt2", tmp_path / "base")
    (case.folder / "README.md").write_text("about")
    (case.folder / ".hidden.json").write_text("{}")
    (case.folder / "notes").mkdir()
    (case.folder / "merges.txt").write_text("")
    files = build_checkpoint(case.patch, case.folder, tmp_path / "corrected")
    assert set(files) == {
        "config.json",
        "generation_config.json",
        "merges.txt",
        "model.safetensors",
    }
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "corrected").state_dict()
    with pruned(case.model, case.selection):
        for name, values in case.model.state_dict().items():
            assert torch.equal(loaded[name], values), name
