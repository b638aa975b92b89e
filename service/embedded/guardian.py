"""Ends a stack's process groups once the process that started them is gone; its own program.

Run as `python -I -S guardian.py`. The supervisor holds the other end of standard input and writes
`+ <group> <signal>` for a group it started and `- <group>` for one that it has seen the end of.
End of file means that the supervisor is gone, however it went: what is left gets its signal and,
if that is not enough, SIGKILL. Standard library only, and no import of `service`: it starts in
a few milliseconds and works wherever a pipe does. It also holds the lock on the stack's home
(an inherited descriptor), so no second stack starts there before the first is really gone.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable

GRACE_SECONDS = 4.0
_POLL_SECONDS = 0.05


def read_groups(lines: Iterable[str]) -> dict[int, int]:
    """Return the groups still registered at end of file, with the signal that stops each."""
    groups: dict[int, int] = {}
    for line in lines:
        match line.split():
            case ["+", group, number]:
                groups[int(group)] = int(number)
            case ["-", group]:
                groups.pop(int(group), None)
    return groups


def end_groups(groups: dict[int, int], grace_seconds: float = GRACE_SECONDS) -> None:
    """Ask every group to end, and kill those that still run after `grace_seconds`."""
    for group, number in groups.items():
        signal_group(group, number)
    deadline = time.monotonic() + grace_seconds
    while any(map(is_alive, groups)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    for group in groups:
        signal_group(group, signal.SIGKILL)


def is_alive(group: int) -> bool:
    """Return whether the group has a process, including one that ended but was not reaped."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def signal_group(group: int, number: int) -> None:
    """Send the signal, if the group still exists."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def main() -> None:
    """Wait until the supervisor has ended."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    end_groups(read_groups(sys.stdin))


if __name__ == "__main__":
    main()
