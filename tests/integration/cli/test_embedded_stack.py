"""The embedded stack with its real parts: it starts, recovers, and leaves no process behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from sqlalchemy import URL

from service.embedded import EmbeddedStack, StackError, postgres, read_running_stack
from service.embedded.home import acquire_lock
from service.embedded.processes import Guardian, Supervised
from service.embedded.valkey import find_free_port
from tests.conftest import fresh_database

ROOT = Path(__file__).resolve().parents[3]
START_SECONDS = 90


@pytest.fixture
def home() -> Iterator[Path]:
    """A home that any user may enter, unlike pytest's own temporary folders."""
    folder = Path(tempfile.mkdtemp(prefix="excise-home-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def environment(home: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("EXCISE_")}
    return {**kept, "EXCISE_HOME": str(home), "PYTHONPATH": str(ROOT)}


def excise(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "excise.cli.app", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@contextmanager
def up(environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Yield `excise up` in a process of its own, which is ended with the context at the latest."""
    command = [sys.executable, "-m", "excise.cli.app", "up", "--port", str(find_free_port())]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(condition: Callable[[], bool], seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def find_family(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def read_command(process: psutil.Process) -> str:
    """The process's command line; empty once it has ended."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def test_the_stack_starts_recovers_and_stops(
    home: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "up.log"
    with up(environment, log) as process:
        wait_until(lambda: "Excise answers" in log.read_text(), START_SECONDS, log)
        running = read_running_stack(home)
        assert running is not None
        assert (home / "stack.json").stat().st_mode & 0o077 == 0

        second = excise(environment, "up", "--port", str(find_free_port()))
        assert second.returncode == 1
        assert re.search(r"^error: Another stack \(process \d+\)", second.stderr, re.MULTILINE)
        assert "Traceback" not in second.stderr

        created = excise(environment, "keys", "create")
        assert re.fullmatch(r"exc_[\w-]{43}\n", created.stdout), created.stderr
        client = {**environment, "EXCISE_API_KEY": created.stdout.strip()}
        client["EXCISE_URL"] = running.url
        assert excise(client, "jobs", "--json").returncode == 0
        key_id = excise(environment, "keys", "list").stdout.splitlines()[1].split()[0]
        assert excise(environment, "keys", "revoke", key_id).returncode == 0
        refused = excise(client, "jobs")
        assert (refused.returncode, refused.stderr[:7]) == (1, "error: ")

        family = find_family(process.pid)
        lines = {child: read_command(child) for child in family}
        for command in ("uvicorn", "celery"):
            next(child for child, line in lines.items() if command in line).kill()
        wait_until(lambda: log.read_text().count("started again") == 2, 30, log)
        assert excise({**client, "EXCISE_API_KEY": "exc_x"}, "jobs").stderr.startswith("error: ")

        arguments = " ".join(map(read_command, find_family(process.pid)))
        password = re.search(r"requirepass (\w+)", (home / "valkey" / "valkey.conf").read_text())
        assert password is not None
        assert password[1] not in arguments
        family = find_family(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0, log.read_text()
        assert not [child for child in family if is_alive(child)]
    assert read_running_stack(home) is None
    assert "Traceback" not in log.read_text()


def test_no_process_outlives_a_killed_supervisor(
    home: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "up.log"
    with up(environment, log) as process:
        wait_until(lambda: "Excise answers" in log.read_text(), START_SECONDS, log)
        family = find_family(process.pid)
        assert len(family) >= 5
        process.kill()
        process.wait()
        wait_until(lambda: not any(map(is_alive, family)), 10, log)
    assert read_running_stack(home) is None
    acquire_lock(home).close()


@pytest.mark.parametrize("seconds", [0.8, 1.6, 2.6, 4.0])
def test_no_process_outlives_an_interrupted_start(
    environment: dict[str, str], tmp_path: Path, seconds: float
) -> None:
    log = tmp_path / "up.log"
    with up(environment, log) as process:
        deadline = time.monotonic() + seconds
        family: set[psutil.Process] = set()
        while time.monotonic() < deadline:
            family.update(find_family(process.pid))
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.wait(40)
        wait_until(lambda: not any(map(is_alive, family)), 5, log)
    text = log.read_text()
    assert "Traceback" not in text or "<frozen" in text  # python's own imports, before our handler


def test_a_taken_port_is_a_clear_error(environment: dict[str, str], postgres_url: URL) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = excise(environment, "up", "--port", str(taken.getsockname()[1]))
    assert result.returncode == 1
    assert "--port" in result.stderr


def test_external_servers_are_used_and_left_alone(
    home: Path, environment: dict[str, str], postgres_url: URL, broker_url: str
) -> None:
    with fresh_database(postgres_url) as database_url:
        external = {"EXCISE_DATABASE_URL": database_url, "EXCISE_BROKER_URL": broker_url}
        with EmbeddedStack(home, environment={**environment, **external}) as stack:
            assert set(stack.pids) == {"api", "worker"}
            assert stack.database_url == database_url
        plain = database_url.replace("postgresql+psycopg", "postgresql")
        with psycopg.connect(plain) as connection:
            assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (0,)


@contextmanager
def run_postgres(home: Path) -> Iterator[postgres.Postgres]:
    """Yield a server over `home`, without any other part."""
    (home / "logs").mkdir(exist_ok=True)
    with acquire_lock(home) as lock:
        guardian = Guardian(lock)
        server = None
        try:
            prepared = postgres.prepare_postgres(home, home / "logs" / "postgres.log", guardian)
            server = Supervised(prepared.program, guardian)
            server.start()
            prepared.wait_until_ready(server)
            yield prepared
        finally:
            if server is not None:
                server.stop()
            guardian.close()
    postgres.remove_socket_folder(prepared.socket_folder, home)


def test_a_home_with_a_long_and_odd_path_works(home: Path) -> None:
    odd = home / f'a, "quoted" ünïcode home {"x" * 90}'
    odd.mkdir()
    with run_postgres(odd) as server:
        assert odd not in server.socket_folder.parents
        socket_folder = server.socket_folder
        assert socket_folder.stat().st_mode & 0o077 == 0
    assert not socket_folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL runs as us, so any home works")
def test_an_inaccessible_home_is_left_unchanged(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "FALLBACK_ROOT", home / "fallback")
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    own = closed / "home"
    own.mkdir()
    for _ in range(2):  # the second time, its data exists already
        with run_postgres(own) as server:
            assert (home / "fallback") in server.program.folder.parents
    assert closed.stat().st_mode & 0o777 == 0o700
    assert len(list((home / "fallback").iterdir())) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="PostgreSQL runs as us, so any folder works")
def test_inaccessible_programs_are_copied(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "FALLBACK_ROOT", home / "fallback")
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    account = postgres._find_account()
    package = postgres._find_binaries(account).parents[1]
    shutil.copytree(package, closed / package.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    shutil.copytree(libraries, closed / libraries.name, symlinks=True)
    copied = postgres._ensure_copy(closed / package.name, account)
    assert (home / "fallback") in copied.parents
    assert postgres._can_run(copied / "pginstall" / "bin" / "initdb", account)


def test_data_of_another_version_is_rejected(home: Path) -> None:
    with run_postgres(home) as server:
        data = server.program.folder
    (data / "PG_VERSION").write_text("9\n")
    with pytest.raises(StackError, match="PostgreSQL 9"), run_postgres(home):
        pass


def test_an_interrupted_initialisation_is_repeated(home: Path) -> None:
    half = home / "postgres.new"
    half.mkdir()
    (half / "PG_VERSION").write_text("18\n")
    with run_postgres(home):
        assert not half.exists()
