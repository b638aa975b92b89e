from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from transformers import LlamaForCausalLM

from tests.tiny import build_tiny_model

SCRIPTS = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def model() -> LlamaForCausalLM:
    return build_tiny_model()


@pytest.fixture(scope="package")
def load_script() -> Iterator[Callable[[str], ModuleType]]:
    """Loads a script as `python benchmarks/NAME.py` does: beside the others of its folder."""
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(SCRIPTS))
