"""Releases side by side: the sources of an earlier one, and processes of both on one database."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from service.command_lines import build_api_arguments, build_worker_arguments
from service.embedded.valkey import find_free_port
from tests.acceptance.harness import _ENVIRONMENT

ROOT = Path(__file__).resolve().parents[3]
PREVIOUS_COMMIT = "eaffd39"
"""Commit that represents the previous release; to be moved with each release."""
PREVIOUS_REVISION = "0004"
"""The schema revision of that release."""

_STOP_SECONDS = 60


class NoHistoryError(Exception):
    """The earlier release is not in this checkout's history."""


@contextmanager
def previous_release() -> Iterator[Path]:
    """Yield a folder with the sources of the previous release. Raises `NoHistoryError`."""
    folder = Path(tempfile.mkdtemp(prefix="excise-previous-"))
    archive = folder / "source.tar"
    packages = ("excise", "service", "workers", "migrations", "examples")
    try:
        done = subprocess.run(
            ["git", "archive", "--output", str(archive), PREVIOUS_COMMIT, *packages],
            cwd=ROOT,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            raise NoHistoryError(f"commit {PREVIOUS_COMMIT} is not in this checkout's history")
        with tarfile.open(archive) as source:
            source.extractall(folder, filter="data")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Fleet:
    """Processes of any release over the same database, broker and artifact folder."""

    database_url: str
    broker_url: str
    home: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def migrate(self, source: Path) -> None:
        """Migrate the database to the schema of the release in `source`."""
        code = "import os; from service.database import upgrade_to_head as u; u(os.environ['URL'])"
        self.run(source, code)

    def run(self, source: Path, code: str, *arguments: str) -> str:
        """Return what a few lines of Python print, run by the release in `source`."""
        environment = {**self._environment(source), "URL": self.database_url}
        command = [sys.executable, "-P", "-c", code, *arguments]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        return done.stdout.decode()

    def start_previous_api(self, source: Path) -> str:
        """Start an API of the release in `source`; return its URL."""
        port = find_free_port()
        arguments = build_api_arguments("127.0.0.1", port, grace_seconds=3)
        self._start("previous-api", arguments, source)
        return f"http://127.0.0.1:{port}"

    def start_previous_worker(self, source: Path) -> subprocess.Popen[bytes]:
        """Start a worker of the release in `source`."""
        return self._start("previous-worker", build_worker_arguments("previous"), source)

    def start_api(self) -> str:
        """Start an API of this release as operators do; return its URL."""
        port = find_free_port()
        self._start("api", _excise("api", "--port", str(port)), ROOT)
        return f"http://127.0.0.1:{port}"

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start a worker of this release as operators do."""
        return self._start("worker", _excise("worker"), ROOT)

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Stop one process in an orderly way."""
        process.terminate()
        process.wait(_STOP_SECONDS)
        self.processes.remove(process)

    def stop_all(self) -> None:
        """Stop all processes; kill those that do not end by themselves."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def read_log(self, name: str) -> str:
        """Return what a part has printed so far."""
        path = self.home / f"{name}.log"
        return path.read_text(errors="replace") if path.is_file() else ""

    def describe(self) -> str:
        """Return the end of every log."""
        logs = sorted(self.home.glob("*.log"))
        return "\n".join(f"--- {log.name}\n{self.read_log(log.stem)[-3000:]}" for log in logs)

    def _start(self, name: str, arguments: list[str], source: Path) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                arguments, env=self._environment(source), cwd=self.home, stdout=log, stderr=log
            )
        self.processes.append(process)
        return process

    def _environment(self, source: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if "EXCISE" not in name}
        return {
            **kept,
            **_ENVIRONMENT,
            "EXCISE_LEASE_SECONDS": "10",  # two releases at once are slow on a busy machine
            "EXCISE_DATABASE_URL": self.database_url,
            "EXCISE_BROKER_URL": self.broker_url,
            "EXCISE_ARTIFACTS": str(self.home / "artifacts"),
            "EXCISE_MODEL_ROOTS": str(self.home / "models"),
            "TOKENIZERS_PARALLELISM": "false",
            "PYTHONPATH": str(source),
            "PYTHONUNBUFFERED": "1",
        }


def _excise(*arguments: str) -> list[str]:
    """Return the command line that operators type."""
    return [sys.executable, "-P", "-m", "excise.cli.app", *arguments]
