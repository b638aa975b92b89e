from __future__ import annotations

import time
from pathlib import Path

import pytest

from service.embedded.processes import Guardian, Program, Supervised

SCRIPT = """
trap 'echo leader told; sleep 0.5; exit 0' TERM
(trap 'echo child told' TERM; echo up; while :; do sleep 0.02; done) &
while :; do sleep 0.02; done
"""


@pytest.mark.parametrize("ends_its_children", [False, True])
def test_a_program_that_ends_its_children_is_asked_alone(
    tmp_path: Path, ends_its_children: bool
) -> None:
    program = Program(
        "shell",
        ["/bin/sh", "-c", SCRIPT],
        tmp_path / "log",
        tmp_path,
        ends_its_children=ends_its_children,
    )
    with (tmp_path / "lock").open("w") as lock:
        guardian = Guardian(lock)
        try:
            supervised = Supervised(program, guardian)
            supervised.start()
            while "up" not in supervised.read_log_tail():
                time.sleep(0.02)
            supervised.stop()
        finally:
            guardian.close()
    lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert "leader told" in lines
    assert ("child told" in lines) != ends_its_children
