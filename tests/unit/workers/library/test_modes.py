"""What a notebook has set for all of torch changes no result, and is there afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

import excise
from excise.reports.correction import CorrectionReport
from tests.unit.workers.library.cases import DECODING, REFERENCE, SETTINGS, UNDESIRED
from workers.library import Outcome

MODES: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def describe_modes() -> tuple[object, ...]:
    return (
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_of_torch_changes_nothing_and_stays(
    correction: Outcome[CorrectionReport], folder: Path, mode: str
) -> None:
    with MODES[mode]():
        before = describe_modes()
        outcome = excise.correct(
            folder,
            [excise.Repetition(UNDESIRED, decoding=DECODING)],
            REFERENCE,
            device="cpu",
            shows_progress=False,
            **SETTINGS,
        )
        corrected = outcome.model
        assert describe_modes() == before
    assert outcome.files["patch.safetensors"] == correction.files["patch.safetensors"]
    assert corrected.dtype == torch.float32
    assert corrected.device.type == "cpu"
    assert not any(parameter.is_inference() for parameter in corrected.parameters())
