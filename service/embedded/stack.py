"""The embedded stack: database, broker, API and workers, started, supervised and stopped as one."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import httpx

from excise.installation import find_checkout
from service.command_lines import build_api_arguments, build_worker_arguments
from service.database import upgrade_to_head
from service.embedded.home import STATE_NAME, RunningStack, acquire_lock
from service.embedded.postgres import (
    Postgres,
    prepare_postgres,
    remove_socket_folder,
    run_to_end,
)
from service.embedded.processes import (
    Guardian,
    IgnoredInterrupts,
    Program,
    StackError,
    Supervised,
)
from service.embedded.serving import EmbeddedServing, ServingOptions
from service.embedded.valkey import find_free_port, prepare_valkey

DEFAULT_PORT = 8100
_READY_SECONDS = 180.0
_SERVING_READY_SECONDS = 600.0
_MAX_START_FAILURES = 3
_WATCH_SECONDS = 0.5
_API_GRACE_SECONDS = 3
_WORKER_GRACE_SECONDS = 6.0

Reporter = Callable[[str], None]


class EmbeddedStack:
    """All of Excise on this machine, running as long as the `with` block.

    `EXCISE_DATABASE_URL` and `EXCISE_BROKER_URL`, where set, name servers that are used as they
    are and never stopped. If this process is killed, the parts end within seconds.
    """

    def __init__(
        self,
        home: Path,
        *,
        host: str = "127.0.0.1",
        port: int | None = None,
        workers: int = 1,
        serving: ServingOptions | None = None,
        report: Reporter = lambda _: None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home.expanduser().absolute()
        self.host = host
        self.port = port or find_free_port()
        self.workers = workers
        self._serving_options = serving
        self._serving: EmbeddedServing | None = None
        self._report = report
        self._environment = dict(os.environ if environment is None else environment)
        self._environment.pop("EXCISE_API_KEY", None)  # the client's; no part of the stack needs it
        self._environment.update(_build_import_path(self._environment))
        self._lock: IO[str] | None = None
        self._guardian: Guardian | None = None
        self._parts: list[Supervised] = []
        self._postgres: Postgres | None = None
        self._stopping = threading.Event()
        self._supervisor: threading.Thread | None = None

    @property
    def url(self) -> str:
        """URL of the API."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def database_url(self) -> str:
        """URL of the database in use."""
        return self._environment["EXCISE_DATABASE_URL"]

    @property
    def pids(self) -> dict[str, int]:
        """The running parts and their process ids."""
        return {part.program.name: part.pid for part in self._parts if part.pid is not None}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def run(
        self, arguments: Sequence[str], log_name: str, *, on_line: Reporter, timeout_seconds: float
    ) -> None:
        """Run a program in the stack's environment, handing on each line it prints.

        Raises `StackError` if it fails or takes too long.
        """
        assert self._guardian is not None
        log = self._log(log_name)
        log.unlink(missing_ok=True)
        with log.open("a+", encoding="utf-8", errors="replace") as reader:
            reader.seek(0)

            def hand_on() -> None:
                for line in reader:
                    on_line(line.rstrip("\n"))

            run_to_end(self._program(log_name, arguments), self._guardian, timeout_seconds, hand_on)

    def wait(self) -> None:
        """Wait until the stack is being stopped."""
        while not self._stopping.wait(1.0):
            pass

    def stop(self) -> None:
        """Stop every part that this stack started, the database last. May be called again."""
        with IgnoredInterrupts():
            self._stopping.set()
            if self._supervisor is not None:
                self._supervisor.join()
                self._supervisor = None
            if self._serving is not None:
                self._serving.stop()
                self._serving = None
            self._stop_parts()
            if self._postgres is not None:
                remove_socket_folder(self._postgres.socket_folder, self.home)
                self._postgres = None
            if self._guardian is not None:
                self._guardian.close()
                self._guardian = None
            if self._lock is not None:
                (self.home / STATE_NAME).unlink(missing_ok=True)
                self._lock.close()
                self._lock = None

    def _stop_parts(self) -> None:
        """Stop the API and the workers together, then the broker, then the database."""
        servers = [part for part in self._parts if part.program.name in {"postgres", "valkey"}]
        clients = [part for part in self._parts if part not in servers]
        for part in clients:
            part.ask_to_stop()
        for part in (*clients, *reversed(servers)):
            part.stop()
        self._parts = []

    def _start(self) -> None:
        """Start the parts in order, each once the one before it works."""
        self._stopping.clear()
        self._make_folders()
        self._lock = acquire_lock(self.home)
        _check_port(self.host, self.port)
        self._guardian = Guardian(self._lock)
        self._start_database()
        self._start_broker()
        upgrade_to_head(self.database_url)
        self._start_serving()
        for program in (self._api_program(), *map(self._worker_program, range(self.workers))):
            self._launch(program)
        self._wait_until_ready()
        self._write_state()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
        self._supervisor.start()

    def _make_folders(self) -> None:
        """Create the home and its folders; only the owner can read logs and artifacts."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            for name in ("logs", "artifacts"):
                (self.home / name).mkdir(mode=0o700, exist_ok=True)
            (self.home / "models").mkdir(exist_ok=True)
        except OSError as error:
            raise StackError(
                f"The home {self.home} cannot be used ({error.strerror}). "
                "Set EXCISE_HOME to a folder you may write to."
            ) from None
        self.home = self.home.resolve()
        self._environment["EXCISE_HOME"] = str(self.home)
        self._environment.setdefault("EXCISE_ARTIFACTS", str(self.home / "artifacts"))
        self._environment.setdefault("EXCISE_MODEL_ROOTS", str(self.home / "models"))
        self._environment.setdefault("EXCISE_SCORER_ROOTS", str(self.home / "scorers"))

    def _start_database(self) -> None:
        """Start PostgreSQL, unless there is an external one."""
        if self._environment.get("EXCISE_DATABASE_URL"):
            return
        assert self._guardian is not None
        self._report("starting PostgreSQL")
        self._postgres = prepare_postgres(self.home, self._log("postgres"), self._guardian)
        self._postgres.wait_until_ready(self._launch(self._postgres.program))
        self._environment["EXCISE_DATABASE_URL"] = self._postgres.url

    def _start_broker(self) -> None:
        """Start Valkey, unless there is an external broker."""
        if self._environment.get("EXCISE_BROKER_URL"):
            return
        self._report("starting Valkey")
        valkey = prepare_valkey(self.home / "valkey", self._log("valkey"))
        valkey.wait_until_ready(self._launch(valkey.program))
        self._environment["EXCISE_BROKER_URL"] = valkey.url

    def _start_serving(self) -> None:
        """Start vLLM, if something is to be served; it takes longest."""
        if self._serving_options is None:
            return
        assert self._guardian is not None
        self._report(f"starting vLLM with {self._serving_options.model}")
        self._serving = EmbeddedServing(
            self._serving_options,
            home=self.home,
            models=Path(self._environment["EXCISE_MODEL_ROOTS"].split(os.pathsep)[0]),
            environment=self._environment,
            guardian=self._guardian,
            report=self._report,
        )
        self._launch(self._serving.base.program)
        self._serving.start(self.database_url, self._environment["EXCISE_ARTIFACTS"])

    def _launch(self, program: Program) -> Supervised:
        """Start one part; it is registered before it runs, so that it is always stopped."""
        assert self._guardian is not None
        part = Supervised(program, self._guardian)
        self._parts.append(part)
        part.start()
        return part

    def _api_program(self) -> Program:
        """Return the API's program."""
        workers = "a worker" if self.workers == 1 else f"{self.workers} workers"
        self._report(f"starting the API and {workers}")
        arguments = build_api_arguments(self.host, self.port, grace_seconds=_API_GRACE_SECONDS)
        own = None if self._serving is None else self._serving.api_environment
        return self._program("api", arguments, defaults=own, grace_seconds=2.0 * _API_GRACE_SECONDS)

    def _worker_program(self, index: int) -> Program:
        """Return the program of one worker."""
        environment = {"TOKENIZERS_PARALLELISM": "false"}
        shares = self.workers + (self._serving is not None)
        if shares > 1:  # torch's own default, all cores, is right for a worker alone
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // shares))
        name = "worker" if self.workers == 1 else f"worker-{index + 1}"
        return self._program(
            name,
            build_worker_arguments(f"excise{index}"),
            defaults=environment,
            grace_seconds=_WORKER_GRACE_SECONDS,
        )

    def _program(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        defaults: Mapping[str, str] | None = None,
        grace_seconds: float = 5.0,
    ) -> Program:
        """Return one of our programs, with the stack's environment."""
        return Program(
            name=name,
            arguments=arguments,
            log=self._log(name),
            folder=self.home,
            environment={**(defaults or {}), **self._environment, "PYTHONUNBUFFERED": "1"},
            grace_seconds=grace_seconds,
        )

    def _log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"

    def _wait_until_ready(self) -> None:
        """Return once the API says that everything works. Raises `StackError`."""
        seconds = _READY_SECONDS if self._serving is None else _SERVING_READY_SECONDS
        deadline = time.monotonic() + seconds
        missing = "the API does not answer"
        while (missing := self._find_missing() or "") != "":
            for part in self._parts:
                part.check(self._report)
                if part.failures >= _MAX_START_FAILURES:
                    raise StackError(
                        f"{part.program.name} does not start. Its log, {part.program.log}, "
                        f"ends:\n{part.read_log_tail()}"
                    )
            if time.monotonic() > deadline:
                raise StackError(f"Not ready after {seconds:.0f} s: {missing}.")
            time.sleep(0.2)

    def _find_missing(self) -> str | None:
        """Return in words what the stack is still waiting for."""
        if self._serving is not None and not self._serving.base.answers():
            return "vLLM does not answer"
        return fetch_missing(self.url)

    def _write_state(self) -> None:
        """Write a note into the home, from which `excise keys` and others find the stack."""
        state = RunningStack(pid=os.getpid(), url=self.url, database_url=self.database_url)
        path = self.home / STATE_NAME
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(state.model_dump_json())

    def _supervise(self) -> None:
        """Restart parts that end, until the stack is stopped."""
        while not self._stopping.wait(_WATCH_SECONDS):
            for part in self._parts:
                try:
                    part.check(self._report)
                except OSError as error:
                    self._report(f"{part.program.name} cannot be started: {error}")


def fetch_missing(url: str) -> str | None:
    """Return in words what the API at `url` waits for; None if it and its workers are ready."""
    try:
        answer: Any = httpx.get(f"{url}/readyz", timeout=5, trust_env=False).json()
        checks: dict[str, Any] = answer["checks"]
        missing = [
            f"{name}: {check['detail']}" for name, check in checks.items() if not check["ok"]
        ]
    except (httpx.HTTPError, json.JSONDecodeError, KeyError, TypeError) as error:
        return f"the API does not answer ({type(error).__name__})"
    return "; ".join(missing) or None


def _check_port(host: str, port: int) -> None:
    """Raise `StackError` if another program already listens at the API's address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise StackError(
                f"The API cannot listen on {host}:{port} ({error.strerror}). "
                "Choose another one with --port."
            ) from None


def _build_import_path(environment: Mapping[str, str]) -> dict[str, str]:
    """Return, in a checkout, the PYTHONPATH that makes our packages importable from any folder."""
    checkout = find_checkout()
    if checkout is None:
        return {}
    parts = (str(checkout), environment.get("PYTHONPATH"))
    return {"PYTHONPATH": os.pathsep.join(filter(None, parts))}
