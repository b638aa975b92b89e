"""A vLLM server of whole checkpoints in the embedded stack, one version at a time.

It is started for a single version, with the version's name and files, and is stopped with it. So
nothing but this version can ever answer to that name, even after restarts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from excise.names import VersionKind
from service.artifacts import ArtifactStore
from service.database import Database
from service.embedded.processes import Guardian, Supervised
from service.embedded.valkey import find_free_port
from service.embedded.vllm import HOST, Vllm
from service.models import ModelVersion
from service.serving import transitions
from service.serving.folders import place_files
from service.serving.repository import list_wanted

GIBIBYTE = 2**30

_OVERHEAD_BYTES = 2 * GIBIBYTE  # of vLLM's three processes, besides weights and cache
_MEMORY = Path("/proc/meminfo")
_PAUSE_SECONDS = 10.0

Prepare = Callable[[str, int, str, Path], Vllm]
"""Describes a server, given its program's name, its port, the version's id and its folder."""


class CheckpointServer:
    """The server of one pool: started, restarted, drained and stopped as the database demands."""

    def __init__(
        self, pool: str, prepare: Prepare, guardian: Guardian, report: Callable[[str], None]
    ) -> None:
        self.pool = pool
        self._port = find_free_port()
        self._prepare = prepare
        self._guardian = guardian
        self._report = report
        self._server: Supervised | None = None
        self._version_id: str | None = None
        self._kill_at: float | None = None
        self._try_at = 0.0

    @property
    def url(self) -> str:
        """URL of the server."""
        return f"http://{HOST}:{self._port}"

    def look(self, database: Database, store: ArtifactStore, served_folder: Path) -> None:
        """Bring the server one step nearer to what the database wants. Does not wait for it.

        Raises `SQLAlchemyError`, `ExciseError`, `OSError` and `ValueError`.
        """
        with database.transaction() as session:
            wanted = next(iter(list_wanted(session, self.pool)), None)
        if self._server is not None and (wanted is None or wanted.id != self._version_id):
            self._let_go(self._server)
        elif self._server is not None:
            self._server.check(self._report)
        elif wanted is not None and time.monotonic() >= self._try_at:
            self._try_at = time.monotonic() + _PAUSE_SECONDS
            folder = place_files(store, VersionKind.CHECKPOINT, wanted.files, served_folder)
            self._begin(database, wanted, folder)

    def ask_to_stop(self) -> None:
        """Let the server finish its open requests; `stop` waits for it."""
        if self._server is not None:
            self._server.ask_to_stop()

    def stop(self) -> None:
        """Stop the server, by force after its grace period."""
        if self._server is not None:
            self._server.stop()
        self._server = self._version_id = self._kill_at = None
        self._try_at = 0.0

    def _begin(self, database: Database, version: ModelVersion, folder: Path) -> None:
        """Start a server for the version, if memory allows."""
        name = f"vllm-{self.pool.removeprefix('embedded-')}"
        server = self._prepare(name, self._port, version.id, folder)
        needed, free = estimate_bytes(folder, server.options.kv_cache_gib), find_free_bytes()
        if free is not None and free < needed:
            problem = (
                f"Its server needs about {needed / GIBIBYTE:.1f} GiB of memory and "
                f"{free / GIBIBYTE:.1f} GiB are free. Retire a version, or correct with "
                "serving.max_rank so that it fits an adapter, and publish again."
            )
            with database.transaction() as session:
                transitions.reject(session, version.id, version.served_name, problem)
            return
        self._report(f"starting vLLM for {version.id}")
        self._server = Supervised(server.program, self._guardian)
        self._version_id = version.id
        self._server.start()

    def _let_go(self, server: Supervised) -> None:
        """Ask the server to finish its open requests, and stop it after its grace period."""
        now = time.monotonic()
        if self._kill_at is None:
            server.ask_to_stop()
            self._kill_at = now + server.program.grace_seconds
        if server.has_ended or now >= self._kill_at:
            self.stop()


def estimate_bytes(folder: Path, kv_cache_gib: int) -> int:
    """Return roughly the memory that a server of the checkpoint in `folder` needs, in bytes.

    It holds the weights as float32, at most twice their size on disk, its cache, and vLLM itself.
    """
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return 2 * weights + kv_cache_gib * GIBIBYTE + _OVERHEAD_BYTES


def find_free_bytes() -> int | None:
    """Return the bytes of memory available without swapping, or None if unknown."""
    try:
        lines = _MEMORY.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return int(found[0][1]) * 1024 if found else None
