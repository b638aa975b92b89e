"""A command that is told to end: exit code and what stays behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from excise.cli.termination import Terminated, ending_in_order

SIGNALS = [(signal.SIGTERM, 143), (signal.SIGHUP, 129)]
PROGRAM = """
import os, signal, tempfile
from pathlib import Path
from excise.cli import installation
from excise.cli.app import app

def find_version():
    with tempfile.TemporaryDirectory(dir="."):
        os.kill(os.getpid(), NUMBER)
        Path("whole").touch()

installation.find_version = find_version
signal.signal(NUMBER, signal.SIG_DFL)  # tests may be started with it ignored
app()
"""


@pytest.fixture
def handlers() -> dict[int, object]:
    found: dict[int, object] = {number: signal.getsignal(number) for number, _ in SIGNALS}
    if any(handler is not signal.SIG_DFL for handler in found.values()):
        pytest.skip("the tests were started with handlers of signals, or ignoring them")
    return found


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_signal_leaves_nothing_half_written(number: int, code: int, tmp_path: Path) -> None:
    program = PROGRAM.replace("NUMBER", str(int(number)))
    done = subprocess.run(
        [sys.executable, "-c", program, "version"], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "terminated\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_a_second_signal_ends_at_once_and_handlers_are_put_back(
    number: int, code: int, handlers: dict[int, object]
) -> None:
    with ending_in_order():
        with pytest.raises(Terminated) as ended:
            os.kill(os.getpid(), number)
        assert signal.getsignal(number) is signal.SIG_DFL
    assert ended.value.code == code
    assert {known: signal.getsignal(known) for known in handlers} == handlers


def test_a_signal_that_is_ignored_stays_so(handlers: dict[int, object]) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ending_in_order():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_other_threads_run_commands_too(handlers: dict[int, object]) -> None:
    ran = []

    def run() -> None:
        with ending_in_order():
            ran.append({known: signal.getsignal(known) for known in handlers})

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ran == [handlers]
