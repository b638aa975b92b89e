"""Whole corrections, circuits and compressions in memory, from values to values."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

import excise
from excise.intake.model_sources import ModelSourceError
from excise.names import Verdict
from excise.reports.correction import CorrectionReport
from tests.faulty import FAULTY_NEURON, SAID, build_saying_model, draw_rows
from tests.tiny import weight_bytes
from tests.unit.workers.library.cases import (
    DECODING,
    MODULE,
    REFERENCE,
    SETTINGS,
    UNDESIRED,
    draw_texts,
)
from workers.library import Outcome
from workers.library.checkpoint import OpenCheckpoint
from workers.models.checkpoints import CheckpointError
from workers.pruning.patch import RejectedPatchError
from workers.pruning.safetensors_files import compute_checkpoint_sha256
from workers.publishing.own_reports import require_own_report
from workers.stages.context import InvalidInputError

TEXTS = draw_texts(60, 40, seed=3)
COMPRESSION: dict[str, Any] = {
    "calibration": {"prompts": TEXTS, "samples": 8, "tokens": 32},
    "perplexity": {"prompts": TEXTS, "context": 32, "sequences": 8},
    "shows_progress": False,
    "device": "cpu",
}


def load_own(folder: Path) -> tuple[Any, Any]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


def without_timings(outcome: Outcome[Any]) -> Any:
    """Everything the outcome's files say, but how long it took and what the model is called."""
    files = dict(outcome.files)
    report = json.loads(files.pop("report.json"))
    report.pop("timings")
    return report, files["patch.safetensors"]


def test_a_correction_finds_the_planted_fault(correction: Outcome[CorrectionReport]) -> None:
    assert correction.verdict is Verdict.PASSED, correction.report.reason
    assert FAULTY_NEURON in correction.patch.selection.indices[MODULE]
    assert sorted(correction.files) == [
        "manifest.json",
        "patch.safetensors",
        "report.html",
        "report.json",
        "report.md",
    ]
    trials = [event for event in correction.events if event.type == "search.trial"]
    assert len(trials) == len(correction.report.search)
    assert sorted(correction.report.timings) == ["attribute", "prepare", "search", "validate"]


def test_a_call_is_estimated_without_loading_the_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenCheckpoint, "load", lambda *_: pytest.fail("the model was loaded"))
    arguments: Any = (str(folder), [excise.Repetition(UNDESIRED)], REFERENCE)
    found = excise.estimate(*arguments, device="cpu", **SETTINGS)
    more = excise.estimate(*arguments, device="cpu", **{**SETTINGS, "search": {"rounds": 20}})
    assert found.fits
    assert found.stages["search"] < more.stages["search"]
    assert str(found).startswith("machine      cpu, ")
    with pytest.raises(ValidationError, match="atribution"):
        excise.estimate(*arguments, atribution={})


def test_a_loaded_model_gives_the_same_and_stays_as_it_is(
    folder: Path, correction: Outcome[CorrectionReport]
) -> None:
    model, tokenizer = load_own(folder)
    model.train()
    before = weight_bytes(model)
    again = excise.correct(
        model,
        [{"kind": "repetition", "name": "repetition", "prompts": UNDESIRED, "decoding": DECODING}],
        REFERENCE,
        tokenizer=tokenizer,
        shows_progress=False,
        **SETTINGS,
    )
    assert weight_bytes(model) == before
    assert model.training
    found, expected = without_timings(again), without_timings(correction)
    for report, _ in (found, expected):
        report["model"].pop("id")
    assert found == expected


def test_patch_model_and_saved_checkpoint_are_one(
    folder: Path, correction: Outcome[CorrectionReport], tmp_path: Path
) -> None:
    saved = correction.save(tmp_path / "out")
    assert (saved / "report.html").read_bytes() == correction.files["report.html"]
    assert compute_checkpoint_sha256(saved / "checkpoint") == correction.patch.corrected_sha256
    require_own_report(correction.report, correction.patch)
    assert correction.report.corrected_sha256 == correction.patch.corrected_sha256
    applied = excise.apply(saved / "patch.safetensors", folder, device="cpu")
    assert weight_bytes(applied) == weight_bytes(correction.model)
    column = correction.model.get_submodule(MODULE).weight[:, FAULTY_NEURON]
    assert not bool(column.any())
    with pytest.raises(FileExistsError):
        correction.save(tmp_path / "out")


def test_the_report_is_shown_inline(correction: Outcome[CorrectionReport]) -> None:
    shown = correction._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert "&lt;html" in shown
    assert repr(correction).startswith("<passed: ")


def test_a_patch_that_did_not_pass_is_applied_only_when_told(folder: Path) -> None:
    rejected = excise.correct(
        folder,
        [excise.Repetition(UNDESIRED, decoding=DECODING, min_effect=1.0)],
        REFERENCE,
        device="cpu",
        shows_progress=False,
        **SETTINGS,
    )
    assert rejected.verdict is Verdict.REJECTED
    with pytest.raises(RejectedPatchError):
        excise.apply(rejected.patch, folder, device="cpu")
    excise.apply(rejected.patch, folder, device="cpu", rejected=True)


def test_what_begins_a_phrase_goes_and_not_what_goes_on_with_it(tmp_path: Path) -> None:
    said = "".join(f"w{word}" for word in SAID)  # the tiny tokenizer writes no blanks
    outcome = excise.correct(
        build_saying_model(tmp_path / "saying"),
        [excise.Phrase(UNDESIRED, phrases=[said], whole_words=False)],
        REFERENCE,
        device="cpu",
        shows_progress=False,
        **SETTINGS | {"search": {"amounts": [1], "rounds": 1}},
    )
    assert outcome.patch is not None
    chosen = {name: own.tolist() for name, own in outcome.patch.selection.indices.items()}
    assert chosen == {MODULE: [0]}
    (remaining,) = (gate for gate in outcome.report.gates if gate.name == "remaining:phrase")
    assert remaining.passed


def test_nothing_to_correct_leaves_a_report_and_no_model(folder: Path, tmp_path: Path) -> None:
    outcome = excise.correct(
        folder,
        [excise.Phrase(UNDESIRED, phrases=["never said"])],
        REFERENCE,
        device="cpu",
        shows_progress=False,
        **SETTINGS,
    )
    assert outcome.verdict is Verdict.NO_EFFECT
    assert outcome.patch is None
    assert not outcome.is_changed
    saved = outcome.save(tmp_path / "out")
    with pytest.raises(FileExistsError, match="out exists; name a folder that does not"):
        outcome.save(saved)
    assert not (saved / "checkpoint").exists()
    with pytest.raises(ValueError, match="there is no changed model"):
        outcome.model  # noqa: B018 - reading it is what fails


def test_a_circuit_is_found(folder: Path) -> None:
    found = excise.find_circuit(
        folder,
        draw_rows(),
        rows=24,
        shares=[0.01, 0.1, 0.5],
        threshold=0.8,
        attributors=["attnlrp", "random"],
        device="cpu",
        shows_progress=False,
    )
    assert found.verdict is Verdict.PASSED, found.report.reason
    assert FAULTY_NEURON not in found.patch.selection.indices[MODULE]
    require_own_report(found.report, found.patch)
    assert [curve.attributor for curve in found.report.curves] == ["attnlrp", "random"]


@pytest.mark.parametrize("settings", [{"method": "wanda", "pattern": "2:4"}, {"sparsity": 0.25}])
def test_a_compressed_model_is_another_one(
    folder: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    found = excise.compress(folder, **COMPRESSION, **settings)
    share = settings.get("sparsity", 0.5)
    # The planted fault has zeros of its own.
    assert found.report.achieved_sparsity == pytest.approx(share, abs=0.03)
    weight = found.model.get_submodule(MODULE).weight
    assert float((weight == 0).float().mean()) == pytest.approx(share, abs=0.03)
    assert weight_bytes(found.base.loaded.model) == weight_bytes(load_own(folder)[0])
    assert found.report.perplexity.corpus == "perplexity"
    assert found.patch is not None
    require_own_report(found.report, found.patch)
    assert found.report.corrected_sha256 == compute_checkpoint_sha256(
        found.save(tmp_path / "out") / "checkpoint"
    )


@pytest.mark.parametrize("sparsity", [1e-300, 0.01])
def test_a_sparsity_that_removes_nothing_is_refused_with_one_that_does(
    folder: Path, sparsity: float
) -> None:
    with pytest.raises(InvalidInputError, match=f"sparsity {sparsity:g} removes no weight") as told:
        excise.compress(folder, **COMPRESSION, method="magnitude", sparsity=sparsity)
    least = float(str(told.value).rpartition(" ")[2].rstrip("."))
    found = excise.compress(folder, **COMPRESSION, method="magnitude", sparsity=least)
    assert found.patch is not None


def test_a_compressed_checkpoint_has_no_second_set_of_weights(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(folder, base)
    (base / "original").mkdir()
    for name in ("consolidated.safetensors", "original/consolidated.safetensors"):
        shutil.copyfile(base / "model.safetensors", base / name)
    (base / "LICENSE").write_text("free")
    (base / "model.safetensors").chmod(0o444)
    found = excise.compress(base, **COMPRESSION, method="magnitude", sparsity=0.9)
    assert found.patch is None  # it would be larger than the weights
    saved = found.save(tmp_path / "out") / "checkpoint"
    names = {path.name for path in base.iterdir()}
    assert {path.name for path in saved.iterdir()} == names - {
        "consolidated.safetensors",
        "original",
    }
    assert compute_checkpoint_sha256(saved) == found.report.corrected_sha256


def test_a_model_needs_its_tokenizer_and_a_name_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    model, _ = load_own(folder)
    with pytest.raises(CheckpointError, match="tokenizer="):
        excise.find_circuit(model)
    with pytest.raises(CheckpointError, match="load it in one of: float32, bfloat16"):
        excise.find_circuit(model.half(), tokenizer=AutoTokenizer.from_pretrained(folder))
    with pytest.raises(ModelSourceError):
        excise.find_circuit(str(tmp_path / "nowhere"))


def test_wrong_input_is_refused_before_anything_runs(folder: Path) -> None:
    repetition = excise.Repetition(UNDESIRED)
    with pytest.raises(ValidationError, match="reference is also"):
        excise.correct(folder, [repetition], UNDESIRED)
    with pytest.raises(ValidationError, match="granularity") as raised:
        excise.correct(folder, [repetition], REFERENCE, granularity="neuron")
    assert "a field of attribution" in raised.value.__notes__[0]
    with pytest.raises(ValidationError, match="thresholds"):
        excise.correct(folder, [excise.Repetition(UNDESIRED, thresholds=1)], REFERENCE)
    alike = [f"{' '.join(['w1 w2 w3 w4'] * 8)} w{number}" for number in range(8)]
    with pytest.raises(InvalidInputError, match=r"reference has 8 texts \(1 when near-duplicates"):
        excise.correct(folder, [repetition], alike, shows_progress=False, **SETTINGS)
    with pytest.raises(InvalidInputError, match="reference has 1 text"):
        excise.correct(folder, [repetition], ["w1 w2"], shows_progress=False, **SETTINGS)
