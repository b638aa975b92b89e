"""A correction of single weights of a mixture of experts, from prompts to checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest

import excise
from excise.reports.correction import CorrectionReport
from tests.tiny import build_tiny_tokenizer, weight_bytes
from tests.tiny_families import MIXTURES, build_family_model
from tests.unit.workers.library.cases import REFERENCE, SETTINGS, draw_texts
from workers.library import Outcome
from workers.pruning.patch import parse_patch, revert_patch
from workers.pruning.safetensors_files import compute_checkpoint_sha256
from workers.publishing.adapters import AdapterError, find_rank

DECODING = {"max_new_tokens": 8, "samples": 3, "temperature": 1.0}
LINES = 4


def correct(folder: Path) -> Outcome[CorrectionReport]:
    """Whatever comes of it: a random model's words are no behaviour that can be unlearned well."""
    settings = SETTINGS | {
        "attribution": {"granularity": "weight"},
        "search": {"amounts": [300, 900, 2700], "rounds": 2},
        "budget": {"perplexity_increase": 1e6, "kl_mean": 1e6},
        "serving": {"max_rank": LINES},
    }
    words = excise.Phrase(draw_texts(24, 6, seed=4), pattern="w1", decoding=DECODING)
    return excise.correct(
        folder, [words], REFERENCE, device="cpu", shows_progress=False, **settings
    )


@pytest.mark.parametrize("name", MIXTURES)
def test_weights_of_experts_are_corrected_and_given_back(name: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    build_family_model(name, max_position_embeddings=256).save_pretrained(base)
    build_tiny_tokenizer().save_pretrained(base)
    outcome = correct(base)
    found = outcome.patch
    assert found is not None
    modules = found.selection.indices
    assert {module.rpartition(".")[2] for module in modules} >= {"gate_up_proj", "down_proj"}
    assert outcome.report.lines is not None
    assert 0 < max(outcome.report.lines.ranks.values()) <= LINES
    saved = outcome.save(tmp_path / "out")
    assert compute_checkpoint_sha256(saved / "checkpoint") == found.corrected_sha256
    applied = excise.apply(saved / "patch.safetensors", base, device="cpu", rejected=True)
    assert weight_bytes(applied) == weight_bytes(outcome.model)
    patch = parse_patch((saved / "patch.safetensors").read_bytes())
    revert_patch(patch, saved / "checkpoint", tmp_path / "back")
    assert compute_checkpoint_sha256(tmp_path / "back") == found.base_sha256
    with pytest.raises(AdapterError, match="holds experts"):
        find_rank(patch, base, 512)
