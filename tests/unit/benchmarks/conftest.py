from __future__ import annotations

import pytest
from transformers import LlamaForCausalLM

from tests.tiny import build_tiny_model


@pytest.fixture
def model() -> LlamaForCausalLM:
    return build_tiny_model()
