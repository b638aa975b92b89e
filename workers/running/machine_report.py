"""What this worker's machine can do, measured in its own process: the worker loads no torch."""

from __future__ import annotations

import logging
import multiprocessing
from multiprocessing.connection import Connection

from excise.estimates.machine import MOST_BYTES, Machine
from service.artifacts import count_free_bytes
from workers.running.child import exit_with_parent
from workers.settings import WorkerSettings

logger = logging.getLogger(__name__)


class MachineReport:
    """The machine, measured once, and how much room there is for results now."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._answer: Connection | None = None
        self._machine: Machine | None = None

    def start(self) -> None:
        """Start to measure, beside whatever the worker does meanwhile."""
        context = multiprocessing.get_context("spawn")
        self._answer, end = context.Pipe(duplex=False)
        arguments = (end, self._settings.device)
        context.Process(target=_tell, args=arguments, name="excise-machine", daemon=True).start()
        end.close()  # the child alone has it open: its end is the end of the pipe

    def read(self) -> Machine | None:
        """Return the machine as far as it is known: None before it is measured, and where that
        failed.
        """
        if self._answer is not None and self._answer.poll():
            try:
                self._machine = self._answer.recv()
            except EOFError:
                logger.warning("this machine could not be measured: no estimates are made for it")
            self._answer = None
        return None if self._machine is None else describe_room(self._machine, self._settings)


def describe_room(machine: Machine, settings: WorkerSettings) -> Machine:
    """Return the machine with what is free at the moment where results are kept."""
    free = count_free_bytes(settings.artifacts)
    known = None if free is None else min(free, MOST_BYTES)  # some network disks tell fairy tales
    return machine.model_copy(update={"disk_bytes": known})


def _tell(answer: Connection, device: str) -> None:
    """What the child does."""
    exit_with_parent()
    from workers.models.machine import measure_machine  # loads torch

    answer.send(measure_machine(device))
