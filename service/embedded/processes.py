"""Child processes that never outlive their supervisor: starting, watching and ending them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from excise.errors import UserError
from excise.logs import describe_line
from service.embedded import guardian

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.05
_MAX_LOG_BYTES = 10 * 2**20
_TAIL_LINES = 8
"""Lines of a log that an error shows. Chosen by hand."""
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class StackError(UserError):
    """The embedded stack cannot start or continue; the message says what to do."""


@dataclass(frozen=True)
class Program:
    """What to run. Secrets belong in `environment`, never in `arguments`."""

    name: str
    arguments: Sequence[str]
    log: Path
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    stop_signal: signal.Signals = signal.SIGTERM
    grace_seconds: float = 5.0
    ends_its_children: bool = False
    """Whether only its first process is asked to stop, which then stops the others."""
    account: pwd.struct_passwd | None = None
    """Run as this system user; as the current one by default."""


class Guardian:
    """A helper process that ends the registered process groups if this process dies."""

    def __init__(self, lock: IO[str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(lock.fileno(),),
            start_new_session=True,
            cwd="/",
            text=True,
        )

    def watch(self, group: int, number: int) -> None:
        """Register the group, to be ended when the supervisor dies."""
        self._write(f"+ {group} {number}\n")

    def forget(self, group: int) -> None:
        """Unregister a group that has ended, because its id may be reused."""
        self._write(f"- {group}\n")

    def close(self) -> None:
        """End the guardian and all groups that it still watches."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=guardian.GRACE_SECONDS + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self, line: str) -> None:
        """Send a line to the guardian; if it is gone, Linux's parent-death signal still works."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(line)
            self._process.stdin.flush()


class ChildProcess:
    """One run of a program, in a process group of its own."""

    def __init__(self, program: Program, guardian: Guardian) -> None:
        self.program = program
        self._guardian = guardian
        self._log_start = 0
        self._process = self._start()

    @property
    def pid(self) -> int:
        """The process id, which is also the number of its group."""
        return self._process.pid

    def poll(self) -> int | None:
        """Wait for the process to end, kill the rest of its group and return the exit status."""
        if self._process.returncode is None and self._has_exited():
            # Before the leader is collected: until then nobody else can get the group's number.
            guardian.signal_group(self.pid, signal.SIGKILL)
            self._process.wait()
            self._guardian.forget(self.pid)
        return self._process.returncode

    def wait(self, timeout_seconds: float) -> int | None:
        """Return the exit status, or None if the process still runs after the time limit."""
        deadline = time.monotonic() + timeout_seconds
        while (status := self.poll()) is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        return status

    def ask_to_stop(self) -> None:
        """Send the signal that ends the program in good order."""
        if self.poll() is None:
            # Not Popen.send_signal: it may collect the leader before its group has ended.
            send = os.kill if self.program.ends_its_children else guardian.signal_group
            send(self.pid, self.program.stop_signal)

    def stop(self) -> None:
        """Stop the process, by force after its grace period."""
        self.ask_to_stop()
        if self.wait(self.program.grace_seconds) is None:
            guardian.signal_group(self.pid, signal.SIGKILL)
            self._process.wait()
            guardian.signal_group(self.pid, signal.SIGKILL)
            self._guardian.forget(self.pid)

    def read_log_tail(self) -> str:
        """Return the last lines that this run has written."""
        try:
            with self.program.log.open("rb") as log:
                log.seek(self._log_start)
                text = log.read().decode(errors="replace")
        except OSError:
            return ""
        return _tail(text)

    def _start(self) -> subprocess.Popen[bytes]:
        """Start the program, its output appended to its log."""
        program = self.program
        account = program.account
        rotate_log(program.log)
        with program.log.open("ab") as log:
            self._log_start = log.tell()
            process = subprocess.Popen(
                list(program.arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=program.folder,
                env=dict(program.environment),
                start_new_session=True,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
                preexec_fn=_build_death_signal(program.stop_signal),
            )
        self._guardian.watch(process.pid, program.stop_signal)
        return process

    def _has_exited(self) -> bool:
        """Return whether the process has ended, without reaping it."""
        try:
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None
        except ChildProcessError:
            return True


class Supervised:
    """A program that is restarted whenever it ends, after growing pauses."""

    STEADY_SECONDS = 60.0
    MAX_PAUSE_SECONDS = 30.0

    def __init__(self, program: Program, guardian: Guardian) -> None:
        self.program = program
        self.failures = 0
        self._guardian = guardian
        self._child: ChildProcess | None = None
        self._started_at = 0.0
        self._restart_at = 0.0

    @property
    def pid(self) -> int | None:
        """Process id of the current run, or None."""
        return self._child.pid if self._child else None

    @property
    def has_ended(self) -> bool:
        """Whether a run has ended and the next one has not started yet."""
        return self._child is None or self._child.poll() is not None

    def start(self) -> None:
        """Start the program."""
        self._child = ChildProcess(self.program, self._guardian)
        self._started_at = time.monotonic()

    def check(self, report: Callable[[str], None]) -> None:
        """Detect that the program ended, and restart it after the pause."""
        now = time.monotonic()
        if self._child is None:
            if now >= self._restart_at:
                self.start()
                report(f"{self.program.name} started again")
            return
        status = self._child.poll()
        if status is None:
            if now - self._started_at > self.STEADY_SECONDS:
                self.failures = 0
            return
        self.failures += 1
        pause = min(2.0 ** (self.failures - 1), self.MAX_PAUSE_SECONDS)
        report(
            f"{self.program.name} ended ({describe_status(status)}); starting it again in "
            f"{pause:.0f} s, see {self.program.log}"
        )
        self._child, self._restart_at = None, now + pause

    def read_log_tail(self) -> str:
        """Return the last lines of the current run's log."""
        return self._child.read_log_tail() if self._child else _read_tail(self.program.log)

    def ask_to_stop(self) -> None:
        """Send the signal that ends the program in good order."""
        if self._child is not None:
            self._child.ask_to_stop()

    def stop(self) -> None:
        """End the program for good."""
        if self._child is not None:
            self._child.stop()
            self._child = None


class IgnoredInterrupts:
    """Ignore Ctrl-C and SIGTERM in the main thread within the context, for a short clean-up."""

    def __enter__(self) -> Self:
        self._handlers = {}
        with contextlib.suppress(ValueError):  # not in the main thread: nothing would arrive
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._handlers[number] = signal.signal(number, signal.SIG_IGN)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def describe_status(status: int) -> str:
    """Return an exit status in words: `exit status 1`, or the name of the signal."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def rotate_log(path: Path) -> None:
    """Rotate a log that has grown large; one old file is kept."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _MAX_LOG_BYTES:
            path.replace(path.with_suffix(".old.log"))


def _read_tail(path: Path) -> str:
    """Return the last lines of a file, if it exists."""
    try:
        return _tail(path.read_text(errors="replace"))
    except OSError:
        return ""


def _tail(text: str) -> str:
    """Return the last lines of a log, for a person."""
    shown = "\n".join(map(describe_line, text.strip().splitlines()[-_TAIL_LINES:]))
    return "\n".join(shown.splitlines()[-_TAIL_LINES:])


def _build_death_signal(number: signal.Signals) -> Callable[[], None] | None:
    """Return a function for new children on Linux: request `number` when the parent thread ends.

    This is the guardian's backup; it also covers the moment before the guardian knows the group.
    """
    libc, parent = _LIBC, os.getpid()
    if libc is None:
        return None

    def ask_for_death_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask_for_death_signal
