"""`excise` in processes of its own, forked from one that has imported everything already.

Importing torch and transformers takes longer than everything a command does to a tiny checkpoint.
The server forks before any thread exists; each fork has the environment, folder and files that its
request names, and exits with the command's exit code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]


class WarmCommand:
    """A server of forks that takes requests over its standard input."""

    def __init__(self, server: subprocess.Popen[str], scratch: Path) -> None:
        self._server = server
        self._scratch = scratch

    def run(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run `excise` with these arguments, in this process's environment."""
        out, err = self._scratch / "out", self._scratch / "err"
        request = {"arguments": arguments, "environment": dict(os.environ), "out": str(out)}
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request | {"err": str(err)}) + "\n")
        self._server.stdin.flush()
        code = int(self._server.stdout.readline())
        return subprocess.CompletedProcess(arguments, code, out.read_text(), err.read_text())


@contextmanager
def warm_command(environment: Mapping[str, str]) -> Iterator[WarmCommand]:
    """Yield a running server; `environment` is added to this process's during its imports."""
    command = [sys.executable, "-m", "tests.integration.cli.warm_command"]
    with tempfile.TemporaryDirectory() as scratch:
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with server:
            yield WarmCommand(server, Path(scratch))


def serve() -> None:
    """Run one request per line, one after the other; the answers are exit codes."""
    import workers.commands.gate.compare
    import workers.reports.gate_run  # noqa: F401 - what the command imports late

    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run_request(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run_request(request: Mapping[str, Any]) -> None:
    """Become the command that a request names, and exit with its code."""
    from excise.cli.app import app

    os.environ.clear()
    os.environ.update(request["environment"])
    for number, name in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
        mode = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(name, mode, 0o600), number)
    sys.argv = ["excise", *request["arguments"]]
    code: object = 1
    try:
        app()
    except SystemExit as ended:
        code = ended.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    serve()
