"""Serving in the embedded stack: a vLLM server for adapters, and some for whole checkpoints.

The database says which version belongs on which server; this module checks it, starts and stops
servers, and deletes files that nothing needs any more.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from excise.names import PoolKind
from service.artifacts import open_artifact_store
from service.database import Database
from service.embedded.checkpoints import CheckpointServer
from service.embedded.processes import Guardian, StackError
from service.embedded.vllm import (
    PROJECTIONS,
    SERVED_BASE,
    Vllm,
    VllmOptions,
    find_vllm,
    prepare_vllm,
)
from service.errors import ExciseError
from service.serving.folders import delete_unneeded
from service.serving.pools import ServingPool
from service.serving.repository import list_kept_files

logger = logging.getLogger(__name__)

ADAPTER_POOL = "embedded-adapters"
CHECKPOINT_POOL = "embedded-checkpoint"
KEY_VARIABLE = "EXCISE_EMBEDDED_VLLM_KEY"
"""The environment variable in which the API finds the servers' key."""

_LOOK_SECONDS = 0.5
_CLEAN_SECONDS = 60.0
_KEPT_SECONDS = 600.0
_DRAIN_SECONDS = 30
_TARGETS = {
    "opt": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
}
"""`model_type` → the projections' names, for families that differ from most."""


@dataclass(frozen=True)
class ServingOptions:
    """What is served."""

    model: str
    """Name of the base, as in jobs; its folder is searched for in the model roots."""
    adapters: int = 3
    checkpoints: int = 2
    """Number of whole checkpoints served at once, each by its own process; with two, the next one
    is ready before the alias leaves the current one."""
    max_rank: int = 16
    max_model_len: int = 1024


class EmbeddedServing:
    """The stack's vLLM servers, and their settings for the API."""

    def __init__(
        self,
        options: ServingOptions,
        *,
        home: Path,
        models: Path,
        environment: Mapping[str, str],
        guardian: Guardian,
        report: Callable[[str], None],
    ) -> None:
        self._home = home
        self._environment = dict(environment)
        self._guardian = guardian
        self._report = report
        self._options = options
        self._executable = find_vllm(environment)
        self._api_key = secrets.token_hex(24)
        self._base = self._prepare("vllm", self._describe_base(models))
        self._checkpoints = [
            CheckpointServer(name, self._prepare_checkpoint, guardian, report)
            for name in name_checkpoint_pools(options.checkpoints)
        ]
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def base(self) -> Vllm:
        """The server of the base and its adapters."""
        return self._base

    @property
    def served_folder(self) -> Path:
        """Folder of the versions' files."""
        return self._home / "served"

    @property
    def api_environment(self) -> dict[str, str]:
        """Environment variables for the API only."""
        base_model = self._options.model
        pools = [
            ServingPool(
                name=ADAPTER_POOL,
                url=self._base.url,
                base_model=base_model,
                served_base=SERVED_BASE,
                max_slots=self._base.options.slots,
                max_rank=self._options.max_rank,
                api_key_env=KEY_VARIABLE,
            ),
            *(
                ServingPool(
                    name=server.pool,
                    url=server.url,
                    base_model=base_model,
                    kind=PoolKind.CHECKPOINT,
                    api_key_env=KEY_VARIABLE,
                )
                for server in self._checkpoints
            ),
        ]
        described = [pool.model_dump(mode="json", exclude={"api_key"}) for pool in pools]
        return {
            "EXCISE_SERVING_POOLS": json.dumps(described),
            "EXCISE_SERVING_FOLDER": str(self.served_folder),
            KEY_VARIABLE: self._api_key,
        }

    def start(self, database_url: str, artifacts: str) -> None:
        """Start the thread that supervises the servers of checkpoints."""
        self._thread = threading.Thread(
            target=self._watch, args=(database_url, artifacts), name="checkpoints", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and the checkpoints' servers; the stack stops the base's server."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _watch(self, database_url: str, artifacts: str) -> None:
        """Run the servers that the database demands, until the stack stops."""
        database = Database(database_url, pool_size=1, max_overflow=0)
        store = open_artifact_store(artifacts)
        clean_at = 0.0
        try:
            while not self._stopping.wait(_LOOK_SECONDS):
                for server in self._checkpoints:
                    with _outages_logged(f"the pool {server.pool}"):
                        server.look(database, store, self.served_folder)
                if time.monotonic() >= clean_at:
                    with _outages_logged("cleaning up"):
                        self._clean(database)
                    clean_at = time.monotonic() + _CLEAN_SECONDS
        finally:
            for server in self._checkpoints:
                server.ask_to_stop()
            for server in self._checkpoints:
                server.stop()
            database.dispose()

    def _clean(self, database: Database) -> None:
        """Delete files of versions that ended a while ago, unless another version needs them."""

        def find_needed() -> Sequence[Mapping[str, str]]:
            with database.transaction() as session:
                return list_kept_files(session, _KEPT_SECONDS)

        for name in delete_unneeded(self.served_folder, find_needed):
            logger.info("deleted %s", name)

    def _prepare_checkpoint(self, name: str, port: int, served_name: str, folder: Path) -> Vllm:
        """Return a server for the checkpoint in a folder, set up like the base's."""
        options = replace(
            self._base.options,
            kind=PoolKind.CHECKPOINT,
            model=folder,
            served_name=served_name,
            drain_seconds=_DRAIN_SECONDS,
        )
        return self._prepare(name, options, port)

    def _describe_base(self, models: Path) -> VllmOptions:
        """Return the base's server. Raises `StackError` if the model does not exist."""
        folder = models / self._options.model
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise StackError(
                f"There is no checkpoint in {folder} to serve. For the bundled model: "
                f"excise models fetch {self._options.model}"
            ) from None
        return VllmOptions(
            model=folder,
            adapters=self._options.adapters,
            max_rank=self._options.max_rank,
            max_model_len=min(
                self._options.max_model_len,
                int(config.get("max_position_embeddings", self._options.max_model_len)),
            ),
            target_modules=_TARGETS.get(config.get("model_type"), PROJECTIONS),
        )

    def _prepare(self, name: str, options: VllmOptions, port: int | None = None) -> Vllm:
        return prepare_vllm(
            name,
            options,
            executable=self._executable,
            folder=self._home,
            log=self._home / "logs" / f"{name}.log",
            environment=self._environment,
            port=port,
            api_key=self._api_key,
        )


def name_checkpoint_pools(count: int) -> list[str]:
    """Return the names of the pools for this many servers of whole checkpoints."""
    return [CHECKPOINT_POOL, *(f"{CHECKPOINT_POOL}-{number}" for number in range(2, count + 1))][
        :count
    ]


@contextmanager
def _outages_logged(what: str) -> Iterator[None]:
    """Log errors that may be temporary; the next round tries again."""
    try:
        yield
    except (SQLAlchemyError, ExciseError, OSError, ValueError) as error:
        logger.warning("%s: %s", what, type(error).__name__)
