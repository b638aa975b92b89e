"""Checkpoints that must not be worked with are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.tiny import build_tiny_model, build_tiny_tokenizer
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
