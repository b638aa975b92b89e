"""A worker in miniature for the orphan test: run as a program, it supervises a hanging child."""

from __future__ import annotations

import sys

from service.database import Database
from tests.integration.workers import children
from workers.running import supervision
from workers.settings import WorkerSettings

if __name__ == "__main__":
    settings = WorkerSettings()
    supervision.run_claimed_job = children.hang_until_the_parent_dies
    database = Database(settings.database_url.get_secret_value())
    supervision.Supervisor(database, settings, "orphan").run(sys.argv[1])
