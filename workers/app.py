"""The Celery application of the workers: queue limits, life signs, and the three tasks.

An entry point: importing it reads the settings. Start with
`celery -A workers.app worker --pool solo`.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import Any
from uuid import uuid4

from celery import Celery
from celery.signals import setup_logging, worker_ready, worker_shutting_down

from excise.logs import configure_logging
from service.database import Database
from service.outbox import JOB_TASK, PUBLISH_TASK, SHARD_TASK
from service.settings import start_process
from workers.running.life_signs import LifeSigns
from workers.running.supervision import Supervisor
from workers.settings import WorkerSettings

settings = start_process(WorkerSettings)

app = Celery("excise-workers", broker=settings.broker_url.get_secret_value())
app.conf.update(
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    # A message is done when the job is: a worker that dies gives it back.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    # CUDA does not survive a fork, so there is no pool; the job runs in a spawned child.
    worker_pool="solo",
    worker_concurrency=1,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    # The lease decides who runs a job, so a redelivery after this long does no harm.
    broker_transport_options={"visibility_timeout": 3600, "socket_keepalive": True},
    worker_send_task_events=False,
)

worker_id = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
database = Database(settings.database_url.get_secret_value(), pool_size=2, max_overflow=2)
supervisor = Supervisor(database, settings, worker_id)
life_signs = LifeSigns(database, settings, supervisor)


@setup_logging.connect
def _keep_logging(loglevel: int, **_: Any) -> None:
    """Log as the service does, not as Celery would; its --loglevel is for its own lines alone."""
    configure_logging(settings.log_level, settings.list_secrets())
    logging.getLogger("celery").setLevel(loglevel)


@app.task(name=JOB_TASK, ignore_result=True)
def run_job(job_id: str) -> None:
    """Run one job to its end, or return at once when it is not this worker's to run."""
    supervisor.run(job_id)


@app.task(name=SHARD_TASK, ignore_result=True)
def run_shard(shard_id: str) -> None:
    """Do one shard of another worker's job, or return at once when it is not to be done here."""
    supervisor.run_shard(shard_id)


@app.task(name=PUBLISH_TASK, ignore_result=True)
def publish(version_id: str) -> None:
    """Build one published version, or return at once when it is not to be done here."""
    supervisor.run_publication(version_id)


@worker_ready.connect
def _start_life_signs(**_: Any) -> None:
    life_signs.start()


@worker_shutting_down.connect
def _give_back_job(**_: Any) -> None:
    supervisor.stop()
