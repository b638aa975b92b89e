"""Bringing one serving pool to its wanted state: what its server holds, and the repairs."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from excise.names import PoolKind, PoolStatus, VersionKind, VersionStatus
from service.artifacts import ArtifactStore
from service.database import Database
from service.errors import ExciseError, StoreUnavailableError
from service.metrics.counters import CANARIES, RECONCILER_ACTIONS, ReconcilerAction
from service.models import ModelVersion, OutboxMessage
from service.outbox import find_traceparent
from service.serving import repository, transitions
from service.serving.canaries import run_canary
from service.serving.canary import CanaryDocument
from service.serving.folders import place_files
from service.serving.pools import ServingPool, list_checkpoint_pools
from service.serving.publications import ADAPTER_WEIGHTS
from service.serving.spare_slot import SPARE_NAME, build_zeros, fill_slots, protect_slots
from service.serving.vllm import (
    AdapterRankError,
    UnknownServedModelError,
    VllmAnswerError,
    VllmError,
    VllmRefusalError,
    VllmServer,
    VllmUnreachableError,
    VllmVersionError,
)
from service.tracing import continue_trace

logger = logging.getLogger(__name__)

_MAX_PAUSE_SECONDS = 60.0
_MAX_TRIES = 5


class PoolKeeper:
    """Keeps one server in the state that the database describes; one keeper per pool is active.

    A version gets a new name each time it is loaded, and requests go only to the name in the
    database. So a server that restarted, or still holds what an earlier keeper loaded, cannot
    answer for a version whose canary has not passed there.
    """

    def __init__(
        self,
        pool: ServingPool,
        pools: Sequence[ServingPool],
        database: Database,
        artifacts: ArtifactStore,
        folder: Path,
        on_change: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._pools = tuple(pools)
        self._database = database
        self._artifacts = artifacts
        self._folder = folder
        self._on_change = on_change
        self._last_seen: tuple[str, str] | None = None
        self._failures: dict[str, int] = {}
        self._not_before: dict[str, float] = {}

    async def converge(self, server: VllmServer) -> None:
        """Check the server once and repair what differs from the wanted state."""
        with self._database.transaction() as session:
            wanted = repository.list_wanted(session, self._pool.name)
        for version in wanted:
            if version.kind != self._kind:
                self._send_elsewhere(version)
        names = await self._look(server)
        if names is None:
            return
        fitting = [version for version in wanted if version.kind == self._kind]
        await self._unload_unknown(server, names, fitting)
        for version in fitting[: self._pool.capacity]:
            if self._is_missing(version, names) and self._may_try(version.id):
                with continue_trace("version bring up", self._find_trace(version)):
                    await self._bring_up(server, version, names)

    @property
    def _kind(self) -> VersionKind:
        """The kind of version this pool serves."""
        return VersionKind.ADAPTER if self._pool.kind == PoolKind.LORA else VersionKind.CHECKPOINT

    @property
    def _base_name(self) -> str | None:
        """The base's name on the server; None for a server of whole checkpoints."""
        return self._pool.served_base if self._pool.kind == PoolKind.LORA else None

    async def _look(self, server: VllmServer) -> frozenset[str] | None:
        """Return the model names on the server; if it is not in order, note why and return None."""
        try:
            version = await server.version()
            is_well = await server.health()
            names = frozenset(model.name for model in await server.models())
        except VllmUnreachableError as error:
            self._note(PoolStatus.DOWN, str(error))
            return None
        except (VllmVersionError, VllmAnswerError, VllmRefusalError) as error:
            self._note(PoolStatus.REFUSED, str(error))
            return None
        if not is_well:
            self._note(PoolStatus.DOWN, "The server answers, but its engine does not work.")
            return None
        if self._base_name is not None and self._base_name not in names:
            self._note(
                PoolStatus.REFUSED,
                f"The server holds no model called {self._base_name!r}. Start it with "
                "--served-model-name, or set served_base of the pool.",
            )
            return None
        self._note(PoolStatus.UP, "It answers.", version)
        return names

    def _note(self, status: str, detail: str, server_version: str | None = None) -> None:
        """Store the server's state; if it is down, its versions become unavailable."""
        is_news = self._last_seen != (status, detail)
        with self._database.transaction() as session:
            repository.store_pool_state(session, self._pool.name, status, detail, server_version)
            suspended = 0
            if status != PoolStatus.UP:
                why = "Its server is unavailable."
                suspended = transitions.suspend_all(session, self._pool.name, why)
        self._count("suspend", suspended)
        if is_news:
            self._last_seen = (status, detail)
            logger.info("pool %s is %s: %s", self._pool.name, status, detail)
            self._on_change()

    def _is_missing(self, version: ModelVersion, names: frozenset[str]) -> bool:
        """Return whether the version is not on the server, or has not passed its canary there."""
        return version.status != VersionStatus.LIVE or version.served_name not in names

    async def _unload_unknown(
        self, server: VllmServer, names: frozenset[str], wanted: Sequence[ModelVersion]
    ) -> None:
        """Unload every adapter that does not belong there."""
        if self._pool.kind != PoolKind.LORA:
            return
        known = {version.served_name for version in wanted} | {self._pool.served_base, SPARE_NAME}
        for name in sorted(names - known):
            logger.info("pool %s: unloading %s", self._pool.name, name)
            await self._unload(server, name)

    async def _bring_up(
        self, server: VllmServer, version: ModelVersion, names: frozenset[str]
    ) -> None:
        """Load the version, run its canary and let requests reach it if it passes."""
        served_name = version.served_name
        if served_name is None or served_name not in names:
            served_name = self._choose_name(version)
            with self._database.transaction() as session:
                is_wanted = transitions.give_name(session, version.id, served_name)
            self._on_change()
            if not is_wanted:
                return
        try:
            document = self._load_document(version)
            folder = place_files(self._artifacts, self._kind, version.files, self._folder)
            if served_name not in names:
                await self._load(server, version, served_name, folder)
            problem = await run_canary(server, document, served_name, self._base_name)
            CANARIES.labels(self._pool.name, "passed" if problem is None else "failed").inc()
        except VllmUnreachableError as error:
            logger.warning("pool %s went away during a canary: %s", self._pool.name, error)
            return
        except StoreUnavailableError as error:  # says nothing about the version, however often
            self._put_off(version.id)
            self._note_retry(version, str(error))
            return
        except (AdapterRankError, ExciseError, ValueError) as error:
            problem = f"It could not be loaded on its server: {error}"
        except (VllmError, OSError) as error:
            await self._try_later(server, version, served_name, str(error))
            return
        if problem is None:
            self._settle(version, served_name, len(document.prompts))
        else:
            await self._reject(server, version, served_name, problem)

    async def _load(
        self, server: VllmServer, version: ModelVersion, served_name: str, folder: Path
    ) -> None:
        """Load an adapter; checkpoints are loaded by whoever starts their server."""
        if self._pool.kind == PoolKind.CHECKPOINT:
            raise UnknownServedModelError(
                f"Its server does not hold it yet. Start it with: vllm serve {folder} "
                f"--served-model-name {served_name}",
                404,
            )
        logger.info("pool %s: loading %s", self._pool.name, served_name)
        if SPARE_NAME not in {model.name for model in await server.models()}:
            spare = self._place_zeros(version)
            await fill_slots(server, self._pool.max_slots, str(spare))
        await protect_slots(server, self._pool.served_base)
        await server.load_adapter(served_name, folder)
        self._count("load")

    def _place_zeros(self, version: ModelVersion) -> Path:
        """Return the folder of an all-zero copy of the adapter; raise like `place_files`"""
        weights = build_zeros(self._artifacts.get(version.files[ADAPTER_WEIGHTS]))
        files = {**version.files, ADAPTER_WEIGHTS: self._artifacts.put_bytes(weights)}
        return place_files(self._artifacts, VersionKind.ADAPTER, files, self._folder)

    def _settle(self, version: ModelVersion, served_name: str, prompts: int) -> None:
        """Record that the canary passed."""
        with self._database.transaction() as session:
            is_live = transitions.mark_live(session, version.id, served_name, prompts)
        self._failures.pop(version.id, None)
        self._count("live")
        self._on_change()
        logger.info("pool %s: %s live: %s", self._pool.name, served_name, is_live)

    async def _reject(
        self, server: VllmServer, version: ModelVersion, served_name: str, problem: str
    ) -> None:
        """Record that the version failed its canary, and unload it."""
        logger.warning("pool %s: %s does not pass: %s", self._pool.name, version.id, problem)
        with self._database.transaction() as session:
            transitions.reject(session, version.id, served_name, problem)
        self._put_off(version.id)
        self._count("reject")
        self._on_change()
        if self._pool.kind == PoolKind.LORA:
            await self._unload(server, served_name)

    async def _try_later(
        self, server: VllmServer, version: ModelVersion, served_name: str, problem: str
    ) -> None:
        """Try again later, as the problem may not be the version's fault; give up eventually."""
        if self._put_off(version.id) >= _MAX_TRIES and self._pool.kind == PoolKind.LORA:
            await self._reject(server, version, served_name, problem)
            return
        self._note_retry(version, problem)

    def _note_retry(self, version: ModelVersion, problem: str) -> None:
        self._count("retry")
        with self._database.transaction() as session:
            transitions.note_problem(session, version.id, problem)

    def _send_elsewhere(self, version: ModelVersion) -> None:
        """Move a correction that fits no adapter to a pool for whole checkpoints."""
        pools = list_checkpoint_pools(self._pools, version.base_model)
        self._count("move")
        with self._database.transaction() as session:
            transitions.move_to_checkpoint_pool(session, version, pools)

    async def _unload(self, server: VllmServer, served_name: str) -> None:
        """Unload an adapter; if that fails, the next check finds it again."""
        try:
            await server.unload_adapter(served_name)
            self._count("unload")
        except VllmError as error:
            logger.info("pool %s: %s was not unloaded: %s", self._pool.name, served_name, error)

    def _count(self, action: ReconcilerAction, times: int = 1) -> None:
        """Count an action for Prometheus."""
        RECONCILER_ACTIONS.labels(self._pool.name, action).inc(times)

    def _find_trace(self, version: ModelVersion) -> str | None:
        """Return the trace of the request that published the version."""
        with self._database.transaction() as session:
            return find_traceparent(session, OutboxMessage.version_id == version.id)

    def _choose_name(self, version: ModelVersion) -> str:
        """Return a name for the version on its server."""
        if self._pool.kind == PoolKind.CHECKPOINT:
            return version.id
        return f"{version.id}.{secrets.token_hex(4)}"

    def _load_document(self, version: ModelVersion) -> CanaryDocument:
        """Return the version's canary. Raises `ExciseError` and `ValueError`."""
        assert version.canary_sha256 is not None
        content = self._artifacts.get(version.canary_sha256)
        return CanaryDocument.model_validate_json(content)

    def _may_try(self, version_id: str) -> bool:
        """Return whether the pause after the version's last failure is over."""
        return time.monotonic() >= self._not_before.get(version_id, 0.0)

    def _put_off(self, version_id: str) -> int:
        """Postpone the next attempt, longer each time; return the failures in a row."""
        failures = self._failures.get(version_id, 0) + 1
        self._failures[version_id] = failures
        pause = min(2.0**failures, _MAX_PAUSE_SECONDS)
        self._not_before[version_id] = time.monotonic() + pause
        return failures
