"""The reconciler: threads that keep the serving pools in the state that the database describes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path

from service.artifacts import ArtifactStore
from service.database import Database
from service.metrics.counters import RECONCILER_FAILURES
from service.serving import repository
from service.serving.convergence import PoolKeeper
from service.serving.locks import try_lock
from service.serving.pools import ServingPool
from service.serving.publishing import publish_finished_job
from service.serving.vllm import VllmServer
from service.settings import Settings

logger = logging.getLogger(__name__)

_MAX_PAUSE_SECONDS = 10.0


class Reconciler:
    """One thread per serving pool, and one that publishes jobs whose specs ask for it.

    Any number of processes may run one, because a lock in the database lets only one act on a pool
    at a time. Outages of the database or a server are logged; the threads wait until they end.
    """

    def __init__(
        self,
        database: Database,
        artifacts: ArtifactStore,
        settings: Settings,
        on_change: Callable[[], None],
    ) -> None:
        self._database = database
        self._artifacts = artifacts
        self._settings = settings
        self._on_change = on_change
        self._stopping = threading.Event()
        self._running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = []
        self._threads = [
            threading.Thread(
                target=self._run, args=(pool,), name=f"excise-pool-{pool.name}", daemon=True
            )
            for pool in settings.serving_pools
        ]
        if settings.serving_pools:
            self._threads.append(
                threading.Thread(target=self._publish_forever, name="excise-publish", daemon=True)
            )

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_seconds: float = 15.0) -> None:
        """End the threads, whatever they wait for."""
        self._stopping.set()
        for loop, task in self._running:
            with contextlib.suppress(RuntimeError):  # its event loop has ended
                loop.call_soon_threadsafe(task.cancel)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout_seconds)

    def publish_once(self) -> None:
        """Publish recently ended jobs whose specs ask for it."""
        with self._database.transaction() as session:
            job_ids = repository.list_jobs_to_publish(session)
        for job_id in job_ids:
            with self._database.transaction() as session:
                publish_finished_job(session, job_id, self._settings.serving_pools, self._artifacts)

    def build_keeper(self, pool: ServingPool) -> PoolKeeper:
        """Return the keeper of one pool."""
        return PoolKeeper(
            pool,
            self._settings.serving_pools,
            self._database,
            self._artifacts,
            Path(self._settings.serving_folder),
            self._on_change,
        )

    def _run(self, pool: ServingPool) -> None:
        """Run the thread of a pool."""
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._keep(pool))

    async def _keep(self, pool: ServingPool) -> None:
        """Check the pool repeatedly, less often while that fails."""
        task = asyncio.current_task()
        assert task is not None
        self._running.append((asyncio.get_running_loop(), task))
        keeper, failures = self.build_keeper(pool), 0
        key = None if pool.api_key is None else pool.api_key.get_secret_value()
        async with VllmServer(pool.url, key) as server:
            while not self._stopping.is_set():
                try:
                    with try_lock(self._database, f"excise-reconciler-{pool.name}") as is_held:
                        if is_held:
                            await keeper.converge(server)
                    failures = 0
                except Exception as error:  # noqa: BLE001 - logged, and tried again
                    failures += 1
                    RECONCILER_FAILURES.labels(pool.name).inc()
                    _log_failure(f"pool {pool.name}", error, failures)
                await asyncio.sleep(self._compute_pause(failures))

    def _publish_forever(self) -> None:
        """Run the thread that publishes jobs."""
        failures = 0
        while not self._stopping.is_set():
            try:
                self.publish_once()
                failures = 0
            except Exception as error:  # noqa: BLE001 - logged, and tried again
                failures += 1
                _log_failure("publishing", error, failures)
            self._stopping.wait(self._compute_pause(failures))

    def _compute_pause(self, failures: int) -> float:
        """Return the seconds until the next check."""
        pause = self._settings.reconcile_seconds
        return min(pause * 2.0 ** min(failures, 10), max(pause, _MAX_PAUSE_SECONDS))


def _log_failure(what: str, error: Exception, failures: int) -> None:
    """Log a failure with traceback the first time, and briefly after that."""
    if failures == 1:
        logger.exception("%s: the reconciler failed", what)
    else:
        logger.warning("%s: the reconciler still fails: %s", what, type(error).__name__)
