from __future__ import annotations

import signal
import subprocess
import sys
import time

from service.embedded.guardian import end_groups, is_alive, read_groups
from service.embedded.processes import describe_status

STUBBORN = (
    "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
)


def test_groups_that_ended_are_forgotten() -> None:
    lines = ["+ 10 15\n", "+ 11 2\n", "- 10\n", "- 99\n", "garbage\n"]
    assert read_groups(lines) == {11: 2}


def test_a_group_that_does_not_listen_is_killed() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN], start_new_session=True, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        started = time.monotonic()
        end_groups({process.pid: signal.SIGTERM}, grace_seconds=0.3)
        assert process.wait(5) == -signal.SIGKILL
        assert time.monotonic() - started < 5
    assert not is_alive(process.pid)


def test_statuses_in_words() -> None:
    assert describe_status(3) == "exit status 3"
    assert describe_status(-9) == "SIGKILL"
    assert describe_status(-250) == "signal 250"
