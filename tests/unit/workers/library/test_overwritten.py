"""A base folder that another training overwrites: no verdict, and no model, of its new weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import excise
from excise.intake.checkpoint_folder import CheckpointFiles
from tests.faulty import draw_rows
from tests.unit.workers.library.cases import REFERENCE, SETTINGS, UNDESIRED, draw_texts
from workers.kinds.compression import package
from workers.library.context import MemoryContext
from workers.models.checkpoints import CheckpointError
from workers.pruning.patch import PatchError, WrongCheckpointError
from workers.pruning.safetensors_files import compute_checkpoint_sha256

TEXTS = draw_texts(60, 40, seed=3)
QUIET: dict[str, Any] = {"device": "cpu", "shows_progress": False}


def overwrite(base: Path) -> None:
    """Put the weights of another training into the folder."""
    file = base / "model.safetensors"
    tensors = {name: values * np.float32(1.5) for name, values in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})


def correct_nothing(base: Path) -> Any:
    """A job without a patch: its report would name weights that it did not measure."""
    never = excise.Phrase(UNDESIRED, phrases=["never said"])
    return excise.correct(base, [never], REFERENCE, **QUIET, **SETTINGS)


def correct(base: Path) -> Any:
    """A correction with a patch."""
    return excise.correct(base, [excise.Repetition(UNDESIRED)], REFERENCE, **QUIET, **SETTINGS)


def find_circuit(base: Path) -> Any:
    """A circuit."""
    return excise.find_circuit(base, draw_rows(), rows=24, shares=[0.1, 0.5], **QUIET)


def compress(base: Path, sparsity: float = 0.25) -> Any:
    """A compression, by default with a patch."""
    return excise.compress(
        base,
        {"prompts": TEXTS, "samples": 8, "tokens": 32},
        {"prompts": TEXTS, "context": 32, "sequences": 8},
        method="magnitude",
        sparsity=sparsity,
        **QUIET,
    )


def compress_whole(base: Path) -> Any:
    """A compression that ships weights, as a patch would be larger."""
    return compress(base, 0.9)


@pytest.fixture
def base(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "base"))


@pytest.mark.parametrize("change", [overwrite, lambda base: (base / "model.safetensors").unlink()])
@pytest.mark.parametrize("call", [correct, correct_nothing, find_circuit, compress, compress_whole])
def test_weights_that_nobody_measured_get_no_verdict(
    call: Callable[[Path], Any],
    change: Callable[[Path], None],
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_stage = MemoryContext.run_stage

    def change_before_packaging(
        context: MemoryContext, name: str, inputs: Mapping[str, Any], work: Any
    ) -> Any:
        if name == "package":
            change(base)
        return run_stage(context, name, inputs, work)

    monkeypatch.setattr(MemoryContext, "run_stage", change_before_packaging)
    with pytest.raises(CheckpointError, match=rf"weights of {base} were changed .* nobody writes"):
        call(base)


def test_weights_are_not_shipped_of_a_base_that_changes_after_the_patch(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose_files = package.choose_files

    def change_first(folder: Path, patch: Any) -> dict[str, bytes]:
        overwrite(folder)
        return choose_files(folder, patch)

    monkeypatch.setattr(package, "choose_files", change_first)
    with pytest.raises(CheckpointError, match="were changed while the job ran"):
        compress_whole(base)


def test_compressed_weights_are_not_joined_to_another_base(base: Path, tmp_path: Path) -> None:
    outcome = compress_whole(base)
    assert outcome.patch is None
    overwrite(base)
    with pytest.raises(WrongCheckpointError, match="those that were measured"):
        outcome.save(tmp_path / "out")
    with pytest.raises(WrongCheckpointError, match="or compress the new ones"):
        outcome.model  # noqa: B018 - reading it is what fails


def test_compressed_weights_replace_all_weights_of_the_base(base: Path, tmp_path: Path) -> None:
    """The hash does not tell how weights are spread over files, so the base may be sharded now."""
    outcome = compress_whole(base)
    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    save_file(tensors, base / "model-00001-of-00001.safetensors", metadata={"format": "pt"})
    places = dict.fromkeys(tensors, "model-00001-of-00001.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    saved = outcome.save(tmp_path / "out") / "checkpoint"
    assert [path.name for path in saved.glob("*.safetensors*")] == ["model.safetensors"]
    assert compute_checkpoint_sha256(saved) == outcome.report.corrected_sha256


def test_weights_that_are_not_the_reports_are_not_saved(base: Path, tmp_path: Path) -> None:
    outcome = compress_whole(base)
    uncompressed = {"model.safetensors": (base / "model.safetensors").read_bytes()}
    other = replace(outcome, files={**outcome.files, **uncompressed})
    with pytest.raises(PatchError, match="the report promised"):
        other.save(tmp_path / "out")


@pytest.mark.parametrize("call", [compress, compress_whole])
def test_an_interrupted_save_leaves_nothing_and_can_be_repeated(
    call: Callable[[Path], Any], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = call(base)
    with monkeypatch.context() as patched:
        patched.setattr(CheckpointFiles, "_copy", interrupt)
        with pytest.raises(KeyboardInterrupt):
            outcome.save(tmp_path / "results" / "out")
    assert list((tmp_path / "results").iterdir()) == []
    saved = outcome.save(tmp_path / "results" / "out")
    assert compute_checkpoint_sha256(saved / "checkpoint") == outcome.report.corrected_sha256
    assert list((tmp_path / "results").iterdir()) == [saved]


def interrupt(*_: Any) -> None:
    """What a user does who waits no longer."""
    raise KeyboardInterrupt
