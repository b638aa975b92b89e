"""Models and tokenizers that calls cannot take are refused with what to give instead."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
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


def build_pruned_model() -> Any:
    model = build_tiny_model()
    prune.l1_unstructured(model.model.layers[0].mlp.up_proj, "weight", amount=0.3)
    return model


def build_parametrized_model() -> Any:
    model = build_tiny_model()
    parametrizations.weight_norm(model.model.layers[0].mlp.up_proj)
    return model


def build_cut_model() -> Any:
    model = build_tiny_model()
    model.model.layers = model.model.layers[:1]
    return model


def build_secretly_tied_model() -> Any:
    model = build_tiny_model()
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (build_pruned_model, r"3 are new or missing \(model.layers.0.mlp.up_proj.weight, .*Merge"),
        (build_parametrized_model, "remove_parametrizations"),
        (build_cut_model, "9 are new or missing .*correct model.config"),
        (build_secretly_tied_model, "tie_word_embeddings is False: set it to True"),
    ],
)
def test_a_model_that_no_checkpoint_could_hold(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(build(), build_tiny_tokenizer())


def test_a_model_that_transformers_does_not_save() -> None:
    model = build_tiny_model()
    model.generation_config.temperature = 0.5  # without do_sample it is refused
    with pytest.raises(CheckpointError, match=r"cannot be saved, .*GenerationConfig is invalid"):
        open_checkpoint(model, build_tiny_tokenizer())


def test_a_model_of_two_dtypes_is_copied_exactly() -> None:
    model = build_tiny_model()
    model.model.embed_tokens.to(torch.bfloat16)
    assert model.dtype == torch.bfloat16
    opened = open_checkpoint(model, build_tiny_tokenizer())
    assert opened.dtype == "float32"
    copied = opened.loaded.model.state_dict()
    assert all(torch.equal(copied[name], own.float()) for name, own in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn])
def test_a_model_with_a_weight_that_is_too_coarse(dtype: torch.dtype) -> None:
    model = build_tiny_model()
    head = nn.Parameter(model.lm_head.weight.to(dtype), requires_grad=False)
    model.lm_head.weight = head
    with pytest.raises(CheckpointError, match=f"held in {dtype}, whose gradients"):
        open_checkpoint(model, build_tiny_tokenizer())


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
