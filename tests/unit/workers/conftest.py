"""Tiny models and checkpoints the tests of the numerical core share."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.tiny import build_tiny_model, build_tiny_tokenizer, save_tiny_checkpoint

# A busy machine is no failure: the suite has its own time limit.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture
def model() -> LlamaForCausalLM:
    """A fresh tiny model; tests may spoil it."""
    return build_tiny_model()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """The tiny model's tokeniser."""
    return build_tiny_tokenizer()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's folder; read it, never write to it."""
    return save_tiny_checkpoint(tmp_path_factory.mktemp("tiny") / "base")
