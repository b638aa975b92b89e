"""A program `excise` for pipelines: each call is forked from a server with all imports done.

The program sends its arguments, environment, folder and output over a socket, forwards signals, and
exits with the fork's status. Importing torch again for every step of a pipeline would take most of
a test's time.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from tests.integration.cli.warm_command import ROOT

_CLIENT = """\
#!{python} -ISs
import json, os, signal, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
request = dict(arguments=sys.argv[1:], environment=dict(os.environ), folder=os.getcwd())
socket.send_fds(server, [json.dumps(request).encode() + b"\\n"], [1, 2])
answers = server.makefile()
pid = int(answers.readline())
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: os.kill(pid, number))
code = int(answers.readline())
sys.exit(code if code >= 0 else 128 - code)
"""


@contextmanager
def warm_program(folder: Path) -> Iterator[str]:
    """Yield the path of the program, whose server runs within the context."""
    path, program = folder / "warm.sock", folder / "excise"
    program.write_text(_CLIENT.format(python=sys.executable, path=str(path)))
    program.chmod(0o755)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    module = "tests.integration.ci.warm_program"
    server = subprocess.Popen(
        [sys.executable, "-m", module, str(path)], env=environment, stdout=subprocess.PIPE
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield str(program)
    finally:
        server.terminate()
        server.communicate()


def serve(path: str) -> None:
    """Answer each call in a fork of its own."""
    import workers.commands.gate.compare
    import workers.reports.gate_run  # noqa: F401 - what the command imports late

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while True:
            caller, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                _answer(caller)
            caller.close()


def _answer(caller: socket.socket) -> None:
    """Run a call in a second fork, report its id and exit status, and exit."""
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    content, files, _, _ = socket.recv_fds(caller, 1 << 20, 2)
    while not content.endswith(b"\n"):
        content += caller.recv(1 << 20)
    pid = os.fork()
    if pid == 0:
        _become(json.loads(content), files)
    with suppress(OSError):
        caller.sendall(f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    with suppress(OSError):
        caller.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(request: dict[str, object], files: list[int]) -> None:
    """Become the called command."""
    from excise.cli.app import app

    arguments, environment = request["arguments"], request["environment"]
    assert isinstance(arguments, list)
    assert isinstance(environment, dict)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(str(request["folder"]))
    os.dup2(files[0], 1)
    os.dup2(files[1], 2)
    # files, even if the caller has pipes
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    sys.argv = ["excise", *arguments]
    code: object = 1
    try:
        app()
    except SystemExit as ended:
        code = ended.code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _end(_number: int, _frame: FrameType | None) -> None:
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    serve(sys.argv[1])
