"""A worker process: the Celery application, a supervisor, and signs of life."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from celery import Celery, Task
from celery.signals import setup_logging, worker_ready, worker_shutdown, worker_shutting_down

from excise.logs import configure_logging
from service.database import Database
from service.tracing import HEADER, flush_traces
from workers.running import messages
from workers.running.exposition import serve_metrics
from workers.running.launching import preload
from workers.running.leased import LeasedWork
from workers.running.life_signs import LifeSigns
from workers.running.supervision import Supervisor
from workers.settings import WorkerSettings

logger = logging.getLogger(__name__)

_OWN_TRANSPORT_SCHEMES = ("redis", "rediss")


def build_worker(settings: WorkerSettings, leased: Sequence[LeasedWork[Any]]) -> Celery:
    """Return the application of a worker that takes this leased work, with one task per kind.

    The worker starts its heartbeat as soon as it listens for work, and gives its work back when it
    is told to shut down.
    """
    app = _build_app(settings.broker_url.get_secret_value())
    worker_id = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
    database = Database(settings.database_url.get_secret_value(), pool_size=2, max_overflow=2)
    supervisor = Supervisor(database, settings, worker_id)
    life_signs = LifeSigns(database, settings, supervisor)
    for work in leased:
        _add_task(app, supervisor, work)
    preload(work.loads for work in leased if work.loads is not None)

    def keep_logging(loglevel: int, **_: Any) -> None:
        """Log like the service, not like Celery, whose --loglevel applies to its own lines only."""
        configure_logging(settings.log_level, settings.list_secrets())
        logging.getLogger("celery").setLevel(loglevel)

    def start_life_signs(**_: Any) -> None:
        life_signs.start()
        if settings.metrics_address is not None:
            serve_metrics(settings.metrics_address, supervisor.reports)
        logger.info("worker %s is ready to take jobs", worker_id)

    def give_back(**_: Any) -> None:
        supervisor.stop()

    def send_traces(**_: Any) -> None:
        flush_traces()

    # Celery keeps only weak references to receivers unless told otherwise.
    setup_logging.connect(keep_logging, weak=False)
    worker_ready.connect(start_life_signs, weak=False)
    worker_shutting_down.connect(give_back, weak=False)
    worker_shutdown.connect(send_traces, weak=False)
    return app


def _build_app(broker_url: str) -> Celery:
    """Return the application, without tasks."""
    app = Celery("excise-workers", broker=broker_url)
    if urlsplit(broker_url).scheme in _OWN_TRANSPORT_SCHEMES:
        app.conf.broker_transport = f"{messages.__name__}:{messages.Transport.__name__}"
    app.conf.update(
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        # A message is acknowledged once the work is done, so a dying worker gives it back.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # The supervisor starts a child for each piece of work itself, so there is no pool.
        worker_pool="solo",
        worker_concurrency=1,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # The lease decides who works, so a redelivery after this long does no harm.
        broker_transport_options={"visibility_timeout": 3600, "socket_keepalive": True},
        worker_send_task_events=False,
    )
    return app


def _add_task(app: Celery, supervisor: Supervisor, work: LeasedWork[Any]) -> None:
    """Add the task whose messages name the rows on which to do this work."""

    @app.task(name=work.task, ignore_result=True, shared=False, bind=True)
    def run(task: Task, row_id: str) -> None:
        supervisor.run(work, row_id, getattr(task.request, HEADER, None))
