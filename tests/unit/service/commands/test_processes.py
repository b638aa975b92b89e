from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest
from typer.testing import CliRunner
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from excise.cli.app import app
from service.command_lines import HEADER_LIMITS, build_api_arguments, build_worker_arguments
from service.commands import processes
from service.commands.processes import wait_for_schema

AWAY = "postgresql+psycopg://excise:secret-word@127.0.0.1:1/excise"


class EnoughError(Exception):
    """Waited long enough."""


def test_what_is_waited_for_is_said_once_and_without_the_password(
    capsys: pytest.CaptureFixture[str],
) -> None:
    looks: list[float] = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 3:
            raise EnoughError

    with pytest.raises(EnoughError):
        wait_for_schema(AWAY, sleep=sleep)
    said = capsys.readouterr().out
    assert said.count("waiting for the database: it does not answer") == 1
    assert "secret-word" not in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["api"], build_api_arguments("127.0.0.1", 8100, grace_seconds=20)),
        (
            ["api", "--host", "0.0.0.0", "--port", "80", "--grace-seconds", "5"],
            build_api_arguments("0.0.0.0", 80, grace_seconds=5),
        ),
        (["worker", "--name", "second"], build_worker_arguments("second")),
    ],
)
def test_a_process_becomes_the_program_once_the_schema_is_there(
    arguments: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[object] = []
    monkeypatch.setenv("EXCISE_DATABASE_URL", AWAY)
    monkeypatch.setattr(processes, "wait_for_schema", order.append)
    monkeypatch.setattr(processes.os, "execv", lambda program, line: order.append((program, line)))
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert order == [AWAY, (sys.executable, expected)]


@pytest.mark.parametrize(("named", "believed"), [(None, False), ("127.0.0.0/8", True)])
def test_only_a_proxy_that_was_named_says_where_a_request_comes_from(
    monkeypatch: pytest.MonkeyPatch, named: str | None, believed: bool
) -> None:
    if named is None:
        monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)
    else:
        monkeypatch.setenv("FORWARDED_ALLOW_IPS", named)
    line = build_api_arguments("::", 1, grace_seconds=1)
    trusted = line[line.index("--forwarded-allow-ips") + 1]
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["client"][0])

    scope = {
        "type": "http",
        "client": ("127.0.0.1", 1),
        "headers": [(b"x-forwarded-for", b"6.6.6.6")],
    }
    asyncio.run(ProxyHeadersMiddleware(app, trusted)(scope, None, None))
    assert seen == ["6.6.6.6" if believed else "127.0.0.1"]


def test_headers_are_limited_wherever_the_api_runs() -> None:
    line = build_api_arguments("::", 1, grace_seconds=1)
    assert line[-len(HEADER_LIMITS) :] == list(HEADER_LIMITS)
    assert line[:3] == [sys.executable, "-P", "-m"]
