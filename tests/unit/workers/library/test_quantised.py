"""Quantised weights are refused before anything is computed with them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import excise
from tests.unit.workers.library.cases import DECODING, REFERENCE, SETTINGS, UNDESIRED
from workers.models import generation
from workers.stages.context import InvalidInputError


def correct(folder: Path) -> Any:
    behaviours = [excise.Repetition(UNDESIRED, decoding=DECODING)]
    return excise.correct(folder, behaviours, REFERENCE, shows_progress=False, **SETTINGS)


def compress(folder: Path) -> Any:
    texts: dict[str, Any] = {"prompts": REFERENCE}
    return excise.compress(folder, texts, texts, shows_progress=False)


@pytest.mark.parametrize("call", [correct, compress])
@pytest.mark.parametrize(("dtype", "name"), [(torch.float8_e4m3fn, "F8_E4M3"), (torch.int8, "I8")])
def test_quantised_weights_are_refused_first(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[Path], Any],
    dtype: torch.dtype,
    name: str,
) -> None:
    monkeypatch.setattr(generation, "generate_samples", None)
    quantised = shutil.copytree(folder, tmp_path / "quantised")
    weights = load_file(quantised / "model.safetensors")
    packed = {key: own.to(dtype) if "mlp" in key else own for key, own in weights.items()}
    save_file(packed, quantised / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidInputError, match=rf"quantised: 6 .* stored as {name} \(model\."):
        call(quantised)
