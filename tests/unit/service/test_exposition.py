"""Processes that share a port count in one folder, and any of them answers for all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from service.metrics.exposition import FOLDER_VARIABLE

ROOT = Path(__file__).resolve().parents[3]
COUNT = "from service.metrics.counters import OUTBOX_SENT; OUTBOX_SENT.inc(3)"
RENDER = (
    "from service.metrics.counters import OUTBOX_SENT, REGISTRY\n"
    "from service.metrics.exposition import Exposition\n"
    "OUTBOX_SENT.inc(1)\n"
    "print(Exposition([REGISTRY], []).render().decode())"
)


def run(program: str, environment: dict[str, str]) -> str:
    return subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    ).stdout


def test_any_process_answers_for_all(tmp_path: Path) -> None:
    environment = {FOLDER_VARIABLE: str(tmp_path)}
    run(COUNT, environment)
    run(COUNT, environment)
    assert "excise_outbox_sent_total 7.0" in run(RENDER, environment)


def test_without_a_folder_each_counts_for_itself() -> None:
    run(COUNT, {})
    assert "excise_outbox_sent_total 1.0" in run(RENDER, {})
