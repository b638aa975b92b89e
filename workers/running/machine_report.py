"""A worker's machine, measured in a child process because the worker must not load torch."""

from __future__ import annotations

import logging
import threading
from multiprocessing.connection import Connection

from pydantic import ValidationError

from excise.estimates.machine import MOST_BYTES, Machine
from excise.logs import configure_logging
from service.artifacts import count_free_bytes
from workers.running.launching import exit_with_parent, get_process_context
from workers.settings import WorkerSettings

logger = logging.getLogger(__name__)


class MachineReport:
    """The machine, measured once, and the space currently free for results."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._machine: Machine | None = None

    def start(self) -> None:
        """Start measuring in the background."""
        threading.Thread(target=self._measure, name="excise-machine", daemon=True).start()

    def read(self) -> Machine | None:
        """Return what is known of the machine.

        It is None before the machine is measured, and if the measurement failed.
        """
        return None if self._machine is None else describe_room(self._machine, self._settings)

    def _measure(self) -> None:
        """Measure in a child, which is forked as those that work are where that is possible."""
        context = get_process_context(self._settings.device)
        answers, end = context.Pipe(duplex=False)
        child = context.Process(
            target=_measure_in_child, args=(self._settings.device, end), name="excise-machine"
        )
        child.start()
        end.close()  # only the child may hold this end open, so that the pipe ends with the child
        self._machine = _receive(answers)
        child.join()


def describe_room(machine: Machine, settings: WorkerSettings) -> Machine:
    """Return the machine with the space that is currently free where results are stored."""
    free = count_free_bytes(settings.artifacts)
    # some network disks report absurd numbers
    known = None if free is None else min(free, MOST_BYTES)
    return machine.model_copy(update={"disk_bytes": known})


def _measure_in_child(device: str, answers: Connection) -> None:
    """Measure the machine and send it as JSON, unless the worker ends first."""
    exit_with_parent()
    configure_logging()
    from workers.models.machine import measure_machine  # loads torch

    answers.send_bytes(measure_machine(device).model_dump_json().encode())


def _receive(answers: Connection) -> Machine | None:
    """Return the machine that the child sends; None if it sends none."""
    try:
        return Machine.model_validate_json(answers.recv_bytes())
    except (EOFError, OSError, ValidationError):
        logger.warning("this machine could not be measured: no estimates are made for it")
        return None
