"""A worker's machine, measured in a process of its own because the worker must not load torch."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading

from pydantic import ValidationError

from excise.estimates.machine import MOST_BYTES, Machine
from excise.logs import configure_logging
from service.artifacts import count_free_bytes
from workers.settings import WorkerSettings

logger = logging.getLogger(__name__)


class MachineReport:
    """The machine, measured once, and the space currently free for results."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._child: subprocess.Popen[bytes] | None = None
        self._machine: Machine | None = None

    def start(self) -> None:
        """Start measuring in the background."""
        command = [sys.executable, "-m", "workers.running.machine_report", self._settings.device]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def read(self) -> Machine | None:
        """Return what is known of the machine.

        It is None before the machine is measured, and if the measurement failed.
        """
        if self._child is not None and self._child.poll() is not None:
            answer, _ = self._child.communicate()
            self._machine, self._child = _parse(answer), None
        return None if self._machine is None else describe_room(self._machine, self._settings)


def describe_room(machine: Machine, settings: WorkerSettings) -> Machine:
    """Return the machine with the space that is currently free where results are stored."""
    free = count_free_bytes(settings.artifacts)
    # some network disks report absurd numbers
    known = None if free is None else min(free, MOST_BYTES)
    return machine.model_copy(update={"disk_bytes": known})


def main(device: str) -> None:
    """Measure the machine and print it as JSON, unless the worker ends first; run in the child."""
    from workers.models.machine import measure_machine  # loads torch

    print(measure_machine(device).model_dump_json())


def _parse(answer: bytes) -> Machine | None:
    try:
        return Machine.model_validate_json(answer)
    except ValidationError:
        logger.warning("this machine could not be measured: no estimates are made for it")
        return None


def _exit_with_worker() -> None:
    """End this process with the worker, which alone holds the other end of this process's input."""

    def watch() -> None:
        sys.stdin.read()
        os._exit(os.EX_TEMPFAIL)

    threading.Thread(target=watch, name="excise-worker-watch", daemon=True).start()


if __name__ == "__main__":
    configure_logging()
    _exit_with_worker()
    main(sys.argv[1])
