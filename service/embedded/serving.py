"""Serving in the embedded stack: a vLLM server for adapters, and one for a whole checkpoint.

A server of a checkpoint is started for one version, under the version's name and on files of the
version's hash, and ended with it: whatever answers to that name can be nothing else, restarts
included. Which version it is the database says; this only looks.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from service.artifacts import ArtifactStore, open_artifact_store
from service.database import Database
from service.embedded.processes import Guardian, StackError, Supervised
from service.embedded.valkey import find_free_port
from service.embedded.vllm import SERVED_BASE, Vllm, VllmOptions, find_vllm, prepare_vllm
from service.errors import ExciseError
from service.models import ModelVersion
from service.serving.folders import place_files
from service.serving.pools import ServingPool
from service.serving.repository import list_wanted

logger = logging.getLogger(__name__)

ADAPTER_POOL = "embedded-adapters"
CHECKPOINT_POOL = "embedded-checkpoint"
KEY_VARIABLE = "EXCISE_EMBEDDED_VLLM_KEY"
"""The environment variable in which the API finds the servers' key."""

_LOOK_SECONDS = 1.0
_TARGETS = {"opt": ("fc2",)}  # by model_type; all others call it down_proj


@dataclass(frozen=True)
class ServingOptions:
    """What is served."""

    model: str
    """The base as jobs call it; its folder is looked for under the model roots."""
    adapters: int = 3
    max_rank: int = 8
    max_model_len: int = 1024


class EmbeddedServing:
    """The stack's vLLM servers and what the API has to know of them."""

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
        self._checkpoint_port = find_free_port()
        self._checkpoint: Supervised | None = None
        self._version_id: str | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def base(self) -> Vllm:
        """The server of the base and its adapters."""
        return self._base

    @property
    def served_folder(self) -> Path:
        """Where versions lie."""
        return self._home / "served"

    @property
    def api_environment(self) -> dict[str, str]:
        """What the API needs in its environment; nobody else does."""
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
            ServingPool(
                name=CHECKPOINT_POOL,
                url=f"http://127.0.0.1:{self._checkpoint_port}",
                base_model=base_model,
                kind="checkpoint",
                api_key_env=KEY_VARIABLE,
            ),
        ]
        described = [pool.model_dump(mode="json", exclude={"api_key"}) for pool in pools]
        return {
            "EXCISE_SERVING_POOLS": json.dumps(described),
            "EXCISE_SERVING_FOLDER": str(self.served_folder),
            KEY_VARIABLE: self._api_key,
        }

    def start(self, database_url: str, artifacts: str) -> None:
        """Look after the checkpoint's server from now on, in a thread."""
        self._thread = threading.Thread(
            target=self._watch, args=(database_url, artifacts), name="checkpoint", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread and the checkpoint's server; the other one is the stack's to end."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _watch(self, database_url: str, artifacts: str) -> None:
        """Keep the server that the database wants, until the stack stops."""
        database = Database(database_url, pool_size=1, max_overflow=0)
        store = open_artifact_store(artifacts)
        try:
            while not self._stopping.wait(_LOOK_SECONDS):
                try:
                    self._look(database, store)
                except (SQLAlchemyError, ExciseError, OSError, ValueError) as error:
                    logger.warning("the checkpoint's server: %s", type(error).__name__)
        finally:
            self._end_checkpoint()
            database.dispose()

    def _look(self, database: Database, store: ArtifactStore) -> None:
        """Start, restart or end the server as the database says."""
        with database.transaction() as session:
            wanted = next(iter(list_wanted(session, CHECKPOINT_POOL)), None)
        if wanted is None or wanted.id != self._version_id:
            self._end_checkpoint()
        if wanted is None:
            return
        if self._checkpoint is None:
            self._begin_checkpoint(wanted, store)
        else:
            self._checkpoint.check(self._report)

    def _begin_checkpoint(self, version: ModelVersion, store: ArtifactStore) -> None:
        folder = place_files(store, "checkpoint", version.files, self.served_folder)
        options = replace(
            self._base.options, kind="checkpoint", model=folder, served_name=version.id
        )
        server = self._prepare("vllm-checkpoint", options, self._checkpoint_port)
        self._report(f"starting vLLM for {version.id}")
        self._checkpoint = Supervised(server.program, self._guardian)
        self._version_id = version.id
        self._checkpoint.start()

    def _end_checkpoint(self) -> None:
        if self._checkpoint is not None:
            self._checkpoint.stop()
        self._checkpoint, self._version_id = None, None

    def _describe_base(self, models: Path) -> VllmOptions:
        """The base's server. Raises `StackError` when the model is not there."""
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
            target_modules=_TARGETS.get(config.get("model_type"), ("down_proj",)),
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
