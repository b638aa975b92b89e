"""A correction of single weights of a mixture of experts, from prompts to checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import excise
from excise.names import Verdict
from tests.faulty import FAULTY_NEURON, LOOP
from tests.tiny import HIDDEN, build_tiny_tokenizer, weight_bytes
from tests.tiny_families import MIXTURES, build_family_model
from tests.unit.workers.library.cases import DECODING, REFERENCE, SETTINGS, UNDESIRED
from workers.pruning.patch import parse_patch, revert_patch
from workers.pruning.safetensors_files import compute_checkpoint_sha256
from workers.publishing.adapters import AdapterError, find_rank

EXPERTS = "model.layers.0.mlp.experts"
LINES = 4


@torch.no_grad()
def build_faulty_mixture(name: str, folder: Path) -> set[tuple[str, int]]:
    """A checkpoint that says nothing but `LOOP` after it, for one neuron of every expert.

    As `build_faulty_model` makes it. Returns the weights of these neurons: module and index.
    """
    model = build_family_model(name, max_position_embeddings=256)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(0.5)
    model.model.embed_tokens.weight[:, 0] = 0
    model.model.embed_tokens.weight[LOOP, 0] = 3
    model.lm_head.weight[:, 0] = 0
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        attention.o_proj.weight[0] = 0
        mlp.experts.down_proj[:, 0] = 0
        for reader in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate):
            reader.weight[:, 0] = 0
        mlp.experts.gate_up_proj[:, :, 0] = 0
    experts = model.model.layers[0].mlp.experts
    read, written = experts.gate_up_proj, experts.down_proj
    features = written.shape[2]
    for row in (FAULTY_NEURON, features + FAULTY_NEURON):  # gate and up projection
        read[:, row] = 0
        read[:, row, 0] = 1
    written[:, :, FAULTY_NEURON] = 4 * model.lm_head.weight[LOOP]
    model.save_pretrained(folder)
    build_tiny_tokenizer().save_pretrained(folder)
    planted: set[tuple[str, int]] = set()
    for expert in range(len(read)):
        first = expert * 2 * features * HIDDEN
        rows = (FAULTY_NEURON, features + FAULTY_NEURON)
        planted |= {(f"{EXPERTS}.gate_up_proj", first + row * HIDDEN) for row in rows}
        column = range(FAULTY_NEURON, HIDDEN * features, features)
        planted |= {
            (f"{EXPERTS}.down_proj", expert * HIDDEN * features + entry) for entry in column
        }
    return planted


@pytest.mark.parametrize("name", MIXTURES)
def test_the_weights_of_experts_behind_a_fault_are_pruned_and_given_back(
    name: str, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    planted = build_faulty_mixture(name, base)
    settings = SETTINGS | {
        "attribution": {"granularity": "weight"},
        "search": {"amounts": [12, 24], "rounds": 2},
        "serving": {"max_rank": LINES},
    }
    outcome = excise.correct(
        base,
        [excise.Repetition(UNDESIRED, decoding=DECODING)],
        REFERENCE,
        device="cpu",
        shows_progress=False,
        **settings,
    )
    assert outcome.verdict is Verdict.PASSED, outcome.report.reason
    found = outcome.patch
    assert found is not None
    pruned = {
        (module, index)
        for module, indices in found.selection.indices.items()
        for index in indices.tolist()
    }
    assert len(pruned & planted) > len(pruned) / 2
    assert outcome.report.lines is not None
    assert 0 < max(outcome.report.lines.ranks.values()) <= LINES
    saved = outcome.save(tmp_path / "out")
    assert compute_checkpoint_sha256(saved / "checkpoint") == found.corrected_sha256
    applied = excise.apply(saved / "patch.safetensors", base, device="cpu")
    assert weight_bytes(applied) == weight_bytes(outcome.model)
    patch = parse_patch((saved / "patch.safetensors").read_bytes())
    revert_patch(patch, saved / "checkpoint", tmp_path / "back")
    assert compute_checkpoint_sha256(tmp_path / "back") == found.base_sha256
    with pytest.raises(AdapterError, match="holds experts"):
        find_rank(patch, base, 512)
