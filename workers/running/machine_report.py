"""What this worker's machine can do, measured in its own process: the worker loads no torch."""

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
    """The machine, measured once, and how much room there is for results now."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._child: subprocess.Popen[bytes] | None = None
        self._machine: Machine | None = None

    def start(self) -> None:
        """Start to measure, beside whatever the worker does meanwhile."""
        command = [sys.executable, "-m", "workers.running.machine_report", self._settings.device]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def read(self) -> Machine | None:
        """Return the machine as far as it is known.

        None before it is measured, and where that failed.
        """
        if self._child is not None and self._child.poll() is not None:
            answer, _ = self._child.communicate()
            self._machine, self._child = _parse(answer), None
        return None if self._machine is None else describe_room(self._machine, self._settings)


def describe_room(machine: Machine, settings: WorkerSettings) -> Machine:
    """Return the machine with what is free at the moment where results are kept."""
    free = count_free_bytes(settings.artifacts)
    known = None if free is None else min(free, MOST_BYTES)  # some network disks tell fairy tales
    return machine.model_copy(update={"disk_bytes": known})


def main(device: str) -> None:
    """What the child does: print the machine as JSON, unless the worker ends before that."""
    from workers.models.machine import measure_machine  # loads torch

    print(measure_machine(device).model_dump_json())


def _parse(answer: bytes) -> Machine | None:
    try:
        return Machine.model_validate_json(answer)
    except ValidationError:
        logger.warning("this machine could not be measured: no estimates are made for it")
        return None


def _exit_with_worker() -> None:
    """End this process as soon as the worker is gone: it alone holds the other end of our input."""

    def watch() -> None:
        sys.stdin.read()
        os._exit(os.EX_TEMPFAIL)

    threading.Thread(target=watch, name="excise-worker-watch", daemon=True).start()


if __name__ == "__main__":
    configure_logging()
    _exit_with_worker()
    main(sys.argv[1])
