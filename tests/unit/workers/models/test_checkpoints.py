"""Checkpoints that must not be worked with are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import build_tiny_model, build_tiny_tokenizer, save_tiny_checkpoint
from workers.models.checkpoints import CheckpointError, load_checkpoint


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(tmp_path: Path, value: float) -> None:
    model = build_tiny_model()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] = value
    model.save_pretrained(tmp_path)
    build_tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"NaN or infinity \(model\.layers\.1\.mlp\.up_proj"):
        load_checkpoint(tmp_path)


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("ends", [2.0, "w5", [[2]], [True]])
def test_an_end_that_is_no_token_id_is_refused(tmp_path: Path, ends: Any) -> None:
    save_tiny_checkpoint(tmp_path)
    change_json(tmp_path / "generation_config.json", eos_token_id=ends)
    with pytest.raises(CheckpointError, match="its eos_token_id, in generation_config"):
        load_checkpoint(tmp_path)


def test_a_model_type_of_another_architecture_is_refused(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path)
    change_json(tmp_path / "config.json", architectures=["MistralForCausalLM"])
    with pytest.raises(CheckpointError, match=r"MistralForCausalLM, .* llama, which is LlamaFor"):
        load_checkpoint(tmp_path)


def test_what_config_json_asks_of_outputs_does_not_count(tmp_path: Path) -> None:
    save_tiny_checkpoint(tmp_path)
    wanted = {"return_dict": False, "output_attentions": True, "output_hidden_states": True}
    change_json(tmp_path / "config.json", **wanted)
    loaded = load_checkpoint(tmp_path)
    assert loaded.run(torch.tensor([[1, 2, 3]])).shape == (1, 3, 32)
    output = loaded.model(torch.tensor([[1, 2, 3]]))
    assert output.logits.shape == (1, 3, 101)
    assert output.attentions is None
    assert output.hidden_states is None
