"""Traces by OpenTelemetry: one from a request through outbox, broker, worker and stages to vLLM.

The API of OpenTelemetry is always there and does nothing by itself. The extra `tracing` brings what
records spans and sends them, and `OTEL_EXPORTER_OTLP_ENDPOINT` says where to; without either,
nothing is recorded and no message or request carries a trace.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from excise.logs import log_fields

logger = logging.getLogger(__name__)

ENDPOINT_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
HEADER = "traceparent"
"""Name of the header, of a request or a message, that carries a trace (W3C Trace Context)."""
_FLUSH_SECONDS = 3.0
"""How long the end of a process waits for its last spans to be sent."""
_PROPAGATOR = TraceContextTextMapPropagator()


def configure_tracing(role: str) -> None:
    """Record spans from now on, if the operator asked for it; for entry points.

    `role` is what the process is called in traces, unless `OTEL_SERVICE_NAME` says otherwise.
    """
    if not any(os.environ.get(name) for name in ENDPOINT_VARIABLES):
        return
    try:
        from service.span_export import build_provider
    except ImportError as error:
        logger.warning("no traces: %s. Run: pip install 'excise[tracing]'", error)
        return
    trace.set_tracer_provider(build_provider(role))


def is_tracing() -> bool:
    """Whether anything is recorded in this process."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def flush_traces() -> None:
    """Send what was recorded, for a process that ends without ado; not for long."""
    shut_down = getattr(trace.get_tracer_provider(), "shutdown", None)
    if shut_down is not None:
        thread = threading.Thread(target=shut_down, name="excise-traces", daemon=True)
        thread.start()
        thread.join(_FLUSH_SECONDS)


@contextmanager
def continue_trace(
    name: str, traceparent: str | None, kind: SpanKind = SpanKind.INTERNAL, **attributes: str | int
) -> Iterator[None]:
    """Within the context, work is part of the trace that a row or message names, if it does."""
    if traceparent is None:
        yield
        return
    context = _PROPAGATOR.extract({HEADER: traceparent})
    tracer = trace.get_tracer("excise")
    given = {f"excise.{key}": value for key, value in attributes.items()}
    with (
        tracer.start_as_current_span(
            name, context=context, kind=kind, attributes=given, record_exception=False
        ),
        log_fields(**describe_trace()),
    ):
        yield


@contextmanager
def step(name: str, **attributes: str | int) -> Iterator[None]:
    """Within the context, work is a part of its own in the present trace, if there is one."""
    with continue_trace(name, get_traceparent(), SpanKind.INTERNAL, **attributes):
        yield


def get_traceparent() -> str | None:
    """The present trace as rows and messages carry it; None where there is none."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get(HEADER)


def build_trace_headers() -> dict[str, str]:
    """What carries the present trace to another server; nothing where there is none."""
    traceparent = get_traceparent()
    return {} if traceparent is None else {HEADER: traceparent}


def describe_trace() -> dict[str, str]:
    """The log field of the present trace; nothing where there is none."""
    context = trace.get_current_span().get_span_context()
    return {"trace_id": trace.format_trace_id(context.trace_id)} if context.is_valid else {}
