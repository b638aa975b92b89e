"""A stack's home: the lock that allows one stack only, and the note on where that runs."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ValidationError

from service.embedded.processes import StackError

STATE_NAME = "stack.json"
_LOCK_NAME = "stack.lock"
_LOCK_WAIT_SECONDS = 15.0
_PRIVATE = 0o600


class RunningStack(BaseModel):
    """The information that other commands on this machine need to find a running stack."""

    pid: int
    url: str
    database_url: str


def acquire_lock(home: Path) -> IO[str]:
    """Return the open, locked lock file of a home. Raises `StackError` if another stack runs there.

    If a stack was killed, its guardian holds the lock until the last part has ended. This waits for
    the guardian, but not for a running stack.
    """
    descriptor = os.open(home / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_APPEND, _PRIVATE)
    os.fchmod(descriptor, _PRIVATE)  # an older file may be open to all
    lock = os.fdopen(descriptor, "a+", encoding="utf-8")
    deadline = time.monotonic() + _LOCK_WAIT_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            lock.seek(0)
            holder = lock.read().strip()
            if time.monotonic() > deadline or _is_running(holder):
                lock.close()
                raise StackError(
                    f"Another stack (process {holder or 'unknown'}) runs in {home}. "
                    "Stop it, or set EXCISE_HOME to another folder."
                ) from None
            time.sleep(0.1)
    lock.seek(0)
    lock.truncate()
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def read_running_stack(home: Path) -> RunningStack | None:
    """Return the stack that runs in `home`, or None."""
    with contextlib.suppress(OSError, ValidationError):
        state = RunningStack.model_validate_json((home / STATE_NAME).read_text(encoding="utf-8"))
        return state if _is_running(str(state.pid)) else None
    return None


def _is_running(pid: str) -> bool:
    """Return whether a process with this id exists."""
    if not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
