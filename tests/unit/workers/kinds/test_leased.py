"""What a worker's parent process loads."""

from __future__ import annotations

import subprocess
import sys

from excise.specs import SPECS
from workers.kinds.registry import KINDS


def test_a_supervisor_loads_no_model_library() -> None:
    program = (
        "import sys, workers.kinds.leased, workers.running.worker;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_worker_runs_every_kind_of_job_there_is() -> None:
    assert {name: kind.spec for name, kind in KINDS.items()} == SPECS
