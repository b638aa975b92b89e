"""Models and tokenizers that calls cannot take are refused with what to give instead."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BloomConfig, BloomForCausalLM

from excise.intake.model_sources import ModelSourceError
from tests.tiny import build_tiny_model, build_tiny_tokenizer
from workers.families import UnsupportedArchitectureError
from workers.library.checkpoint import open_checkpoint
from workers.models.checkpoints import CheckpointError


def test_a_loaded_model_is_written_to_a_folder_that_goes_with_it() -> None:
    opened = open_checkpoint(build_tiny_model(), build_tiny_tokenizer(), dtype="float32")
    folder = opened.folder
    assert (folder / "tokenizer.json").is_file()
    del opened
    assert not folder.exists()


@pytest.mark.parametrize(
    ("model", "tokenizer", "message"),
    [
        (nn.Linear(2, 2), None, "model is a Linear; give a transformers model"),
        (build_tiny_model(), "a folder", "tokenizer is a str; give a loaded one"),
        (build_tiny_model(vocab_size=8), build_tiny_tokenizer(), "and the model 8: it is another"),
    ],
)
def test_what_is_no_model_with_its_own_tokenizer(model: Any, tokenizer: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(model, tokenizer)


def test_an_unknown_architecture_is_refused_before_it_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    shape = {"vocab_size": 64, "hidden_size": 16, "n_layer": 1, "n_head": 2}
    bloom = BloomForCausalLM(BloomConfig(**shape))
    with pytest.raises(UnsupportedArchitectureError, match="BloomForCausalLM is not supported"):
        open_checkpoint(bloom, build_tiny_tokenizer())
    assert not any(tmp_path.iterdir())


def test_a_loaded_model_decides_its_own_dtype_if_it_is_automatic() -> None:
    opened = open_checkpoint(build_tiny_model(), build_tiny_tokenizer(), dtype="auto")
    assert opened.dtype == "float32"


def test_a_dtype_that_the_loaded_model_is_not_held_in() -> None:
    with pytest.raises(CheckpointError, match="dtype is bfloat16, but the model is held in float"):
        open_checkpoint(build_tiny_model(), build_tiny_tokenizer(), dtype="bfloat16")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float16"}, "give one of these names: float32, bfloat16, auto"),
        ({"dtype": torch.float32}, "dtype is torch.float32; give one of these names"),
        ({"device": "gpu"}, "device is 'gpu'; give auto, cpu, cuda"),
        ({"tokenizer": build_tiny_tokenizer()}, "a folder or a name has its own"),
    ],
)
def test_settings_that_a_folder_cannot_take(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path, **settings)


def test_a_gpu_where_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CheckpointError, match="torch sees no GPU here"):
        open_checkpoint(tmp_path, device="cuda:1")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", Path("~/nowhere-at-all")):
        with pytest.raises(ModelSourceError, match=f"there is no folder {path}"):
            open_checkpoint(path)
