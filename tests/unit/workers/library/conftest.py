"""One checkpoint and one correction of it for all tests of the package."""

from __future__ import annotations

from pathlib import Path

import pytest

import excise
from excise.reports.correction import CorrectionReport
from tests.faulty import build_faulty_model
from tests.unit.workers.library.cases import (
    DECODING,
    REFERENCE,
    SETTINGS,
    UNDESIRED,
)
from workers.library import Outcome


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_faulty_model(tmp_path_factory.mktemp("library") / "tiny", "weight")


@pytest.fixture(scope="session")
def correction(folder: Path) -> Outcome[CorrectionReport]:
    return excise.correct(
        folder,
        [excise.Repetition(UNDESIRED, decoding=DECODING)],
        REFERENCE,
        device="cpu",
        shows_progress=False,
        **SETTINGS,
    )
