"""A minimal worker for the orphan test: run as a program, it supervises a hanging child."""

from __future__ import annotations

import sys

from service.database import Database
from tests.integration.workers import children
from workers.running.supervision import Supervisor
from workers.settings import WorkerSettings

if __name__ == "__main__":
    settings = WorkerSettings()
    database = Database(settings.database_url.get_secret_value())
    Supervisor(database, settings, "orphan").run(children.ActingJob(children.hang), sys.argv[1])
