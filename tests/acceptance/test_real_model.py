"""The real SmolLM2-135M-Instruct shows the behaviour, and a patch of it is exact."""

from __future__ import annotations

import filecmp
from pathlib import Path
from statistics import fmean

import pytest
import torch

from excise.names import Granularity
from tests.acceptance.real_checkpoints import fetch_real, needing, read_examples
from workers.domain import Selection
from workers.models.checkpoints import load_checkpoint
from workers.models.encoding import encode_text
from workers.models.generation import generate_responses
from workers.models.loaded import LoadedModel
from workers.pruning.components import pruned
from workers.pruning.patch import apply_patch, revert_patch
from workers.pruning.patch_building import build_patch
from workers.pruning.patch_format import parse_patch
from workers.pruning.patch_format import serialise_patch as serialise
from workers.scorers.uniqueness import compute_response_uniqueness

NAME = "smollm2-135m-instruct"
SELECTION = Selection(
    Granularity.NEURON,
    {
        "model.layers.20.mlp.down_proj": torch.tensor([290, 493]),
        "model.layers.18.mlp.down_proj": torch.tensor([918]),
    },
)

pytestmark = needing(NAME)


@pytest.fixture(scope="module")
def folder() -> Path:
    return fetch_real(NAME)


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> LoadedModel:
    return load_checkpoint(folder)


def test_the_base_model_does_repeat_itself(checkpoint: LoadedModel) -> None:
    prompts = read_examples("repetition_prompts.txt", 16)
    ids = [encode_text(checkpoint.tokenizer, prompt) for prompt in prompts]
    responses = generate_responses(checkpoint, ids, 32)
    metrics = [compute_response_uniqueness(response.response_ids) for response in responses]
    assert min(metrics) <= 0.5
    assert fmean(metrics) < 0.75


def test_a_patch_gives_the_pruned_model_and_the_base_back(
    folder: Path, checkpoint: LoadedModel, tmp_path: Path
) -> None:
    patch = parse_patch(serialise(build_patch(folder, SELECTION)))
    apply_patch(patch, folder, tmp_path / "corrected")
    revert_patch(patch, tmp_path / "corrected", tmp_path / "base")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert filecmp.cmp(folder / name, tmp_path / "base" / name, shallow=False), name
    prompts = [
        encode_text(checkpoint.tokenizer, text)
        for text in read_examples("repetition_prompts.txt", 4)
    ]
    with pruned(checkpoint.model, SELECTION):
        expected = generate_responses(checkpoint, prompts, 16)
    corrected = load_checkpoint(tmp_path / "corrected")
    assert generate_responses(corrected, prompts, 16) == expected
