"""Tracing without the extra, or without anybody who asked for it, does nothing at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service import tracing

ROOT = Path(__file__).resolve().parents[3]
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_outside_of_a_trace_nothing_is_carried_or_logged() -> None:
    with tracing.continue_trace("work", None), tracing.step("stage"):
        assert tracing.get_traceparent() is None
        assert tracing.build_trace_headers() == {}
        assert tracing.describe_trace() == {}


def test_a_trace_goes_on_inside_of_the_block_alone() -> None:
    with tracing.continue_trace("work", PARENT):
        assert tracing.describe_trace() == {"trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}
        assert "4bf92f3577b34da6a3ce929d0e0e4736" in tracing.build_trace_headers()["traceparent"]
    assert tracing.get_traceparent() is None


@pytest.mark.parametrize("parent", ["", "nonsense", "00-0-0-01", "00-" + "0" * 32 + "-x-01"])
def test_a_traceparent_that_is_none_breaks_nothing(parent: str) -> None:
    with tracing.continue_trace("work", parent):
        assert tracing.describe_trace().get("trace_id") != "0" * 32


def test_without_the_extra_a_process_says_so_and_goes_on() -> None:
    program = (
        "import logging, sys; logging.basicConfig()\n"
        "sys.modules['opentelemetry.sdk'] = None\n"
        "from service import tracing; tracing.configure_tracing('api'); tracing.flush_traces()\n"
        "from opentelemetry import trace\n"
        "print(type(trace.get_tracer_provider()).__name__)"
    )
    environment = {"PYTHONPATH": str(ROOT), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "pip install 'excise[tracing]'" in ended.stderr
    assert ended.stdout.strip() == "ProxyTracerProvider"


def test_nobody_who_asks_means_no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in tracing.ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    given: list[object] = []
    monkeypatch.setattr(tracing.trace, "set_tracer_provider", given.append)
    tracing.configure_tracing("api")
    assert given == []
