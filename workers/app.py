"""The Celery application of the workers.

An entry point: importing it reads the settings. Start with
`celery -A workers.app worker --pool solo`.
"""

from __future__ import annotations

from service.settings import start_process
from workers.kinds.leased import LEASED_WORK
from workers.running.worker import build_worker
from workers.settings import WorkerSettings

app = build_worker(start_process(WorkerSettings, "worker"), LEASED_WORK)
