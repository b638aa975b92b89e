"""The relay: threads that send the outbox, hand orphaned jobs to other workers, and clean up."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from excise.plurals import count_noun
from service.artifacts import open_artifact_store
from service.broker import Broker
from service.database import Database
from service.jobs.intermediates import collect_artifact, find_expired
from service.jobs.leases import JOBS, SHARDS
from service.leases.operations import sweep
from service.leases.policy import LeasePolicy
from service.metrics.counters import LEASES_EXPIRED, RELAY_FAILURES
from service.outbox import count_unsent, delete_old_sent, resend, send_unsent
from service.serving.publications import VERSIONS
from service.settings import Settings

logger = logging.getLogger(__name__)

_MAX_PAUSE_SECONDS = 10.0
_PARTIAL_SECONDS = 3600.0
"""An incomplete file in the artifact store that is unchanged for this long is deleted, because its
writer has died. Chosen by hand."""
_POLICIES: tuple[LeasePolicy[Any], ...] = (JOBS, SHARDS, VERSIONS)


class Relay:
    """Sends the messages in the outbox, and cleans up after workers that died.

    Any number of relays may run at once, because rows are locked and locked rows are skipped.
    Outages of the database or the broker are logged; the relay waits until they end.
    """

    def __init__(self, database: Database, broker: Broker, settings: Settings) -> None:
        self._database = database
        self._broker = broker
        self._settings = settings
        self._store = open_artifact_store(settings.artifacts)
        self._stopping = threading.Event()
        self._threads = [
            self._thread("outbox", self.send_once, settings.relay_seconds),
            self._thread("sweeper", self.sweep_once, settings.sweep_seconds),
        ]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_seconds: float = 15.0) -> None:
        """Ask the threads to end and wait for them."""
        self._stopping.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout_seconds)

    def send_once(self) -> int:
        """Send all unsent messages, and after a wipe of the broker all again; return how many."""
        self._recover_from_wipe()
        sent = 0
        while batch := self._send_batch():
            sent += batch
        return sent

    def sweep_once(self) -> None:
        """Free rows held by silent workers, re-send lost messages, and clean the outbox."""
        settings = self._settings
        for policy in _POLICIES:
            with self._database.transaction() as session:
                for row_id in sweep(session, policy, settings.lease_seconds, settings.max_attempts):
                    logger.warning("lease of %s %s expired", policy.name, row_id)
                    LEASES_EXPIRED.labels(policy.name).inc()
        with self._database.transaction() as session:
            if count := resend(session, JOBS, settings.resend_seconds):
                logger.warning("%d queued jobs were not claimed in time; sending again", count)
            resend(session, SHARDS, settings.resend_seconds)
            resend(session, VERSIONS, settings.resend_seconds)
            delete_old_sent(session)
        self.collect_once()
        if count := self._store.sweep_partial(_PARTIAL_SECONDS):
            logger.warning("%d half-written artifacts of writers that died were deleted", count)

    def collect_once(self) -> int:
        """Delete intermediate files of jobs that ended long ago; return their number."""
        seconds = self._settings.retention_seconds
        with self._database.transaction() as session:
            expired = find_expired(session, seconds)
        deleted = 0
        for sha256 in expired:
            with self._database.transaction() as session:
                deleted += collect_artifact(session, self._store, sha256, seconds)
        return deleted

    def _recover_from_wipe(self) -> None:
        """If the broker has lost the marker, re-send messages for all rows that wait for a worker.

        The marker is set last. A crash before that sends messages twice, which workers tolerate.
        """
        if self._broker.has_epoch():
            return
        with self._database.transaction() as session:
            count = sum(resend(session, policy) for policy in _POLICIES)
        if count:
            sent = count_noun(count, "message")
            logger.warning("the broker is new or was wiped; sending %s again", sent)
        self._broker.set_epoch()

    def _send_batch(self) -> int:
        """Send one batch in one transaction; return the number of messages."""
        with self._database.transaction() as session:
            if not count_unsent(session):
                return 0
            with self._broker.publisher() as publish:
                return send_unsent(session, publish)

    def _thread(self, name: str, tick: Callable[[], object], pause: float) -> threading.Thread:
        """Return a thread that runs `tick` every `pause` seconds, and less often while it fails."""

        def loop() -> None:
            failures = 0
            while not self._stopping.is_set():
                try:
                    tick()
                    failures = 0
                except Exception as error:
                    failures += 1
                    RELAY_FAILURES.labels(name).inc()
                    if failures == 1:
                        logger.exception("relay %s failed", name)
                    else:
                        logger.warning("relay %s still fails: %s", name, type(error).__name__)
                delay = pause * 2 ** min(failures, 10)
                self._stopping.wait(min(delay, max(pause, _MAX_PAUSE_SECONDS)))

        return threading.Thread(target=loop, name=f"excise-{name}", daemon=True)
