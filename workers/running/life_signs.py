"""A worker's heartbeat in the database, and its exit if the broker no longer sends it jobs."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time

from sqlalchemy.exc import SQLAlchemyError

from excise.plurals import count_noun
from service.database import Database
from service.jobs.execution import heartbeat_worker, is_job_waiting
from service.outages import OutageRecord
from workers.running.machine_report import MachineReport
from workers.running.supervision import Supervisor
from workers.settings import WorkerSettings

logger = logging.getLogger(__name__)

EXIT_SILENT = 75
"""Exit status (EX_TEMPFAIL) of a worker that exits to be restarted by its supervisor."""

_HEARTBEAT = "heartbeat"


class LifeSigns:
    """A thread that writes every few seconds that the worker is alive, its task and its machine.

    A consumer can stay connected to a restarted broker and never receive a job again. So a worker
    that is idle while a job has long been waiting exits, to be restarted.
    """

    def __init__(
        self, database: Database, settings: WorkerSettings, supervisor: Supervisor
    ) -> None:
        self._machine = MachineReport(settings)
        self._database = database
        self._settings = settings
        self._supervisor = supervisor
        self._idle_since = time.monotonic()
        self._outages = OutageRecord()
        self._thread = threading.Thread(target=self._loop, name="excise-life-signs", daemon=True)

    def start(self) -> None:
        """Start the thread, and the measurement of this machine."""
        self._machine.start()
        self._thread.start()

    def beat(self) -> bool:
        """Write one heartbeat; return whether the worker still receives jobs."""
        busy = self._supervisor.job_id
        if busy is not None or self._supervisor.is_warming_up:
            self._idle_since = time.monotonic()
        silence, machine = self._settings.silence_seconds, self._machine.read()
        with self._database.transaction() as session:
            heartbeat_worker(
                session,
                self._supervisor.worker_id,
                socket.gethostname(),
                os.getpid(),
                busy,
                machine,
            )
            is_waiting = is_job_waiting(session, silence)
        return not (is_waiting and time.monotonic() - self._idle_since > silence)

    def try_beat(self) -> bool:
        """Do the same; a failure is logged if it is the first of an outage, and then its end."""
        try:
            receives = self.beat()
        except SQLAlchemyError as error:
            if self._outages.note_failure(_HEARTBEAT):
                logger.warning("no heartbeat: %s", type(error).__name__)
            return True
        if failures := self._outages.note_success(_HEARTBEAT):
            logger.info("heartbeats go on, after %s", count_noun(failures, "failure"))
        return receives

    def _loop(self) -> None:
        while True:
            if not self.try_beat():
                logger.error("jobs wait but none arrives here; exiting to be restarted")
                os._exit(EXIT_SILENT)
            time.sleep(self._settings.heartbeat_seconds)
