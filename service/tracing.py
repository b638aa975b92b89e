"""Tracing by OpenTelemetry: from a request through outbox, broker, worker and stages to vLLM.

OpenTelemetry's API is always installed and does nothing by itself. The extra `tracing` installs the
part that records and sends spans, and `OTEL_EXPORTER_OTLP_ENDPOINT` says where to. Without both,
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
"""How long an ending process waits for its last spans to be sent. Chosen by hand."""
_PROPAGATOR = TraceContextTextMapPropagator()


def configure_tracing(role: str) -> None:
    """Record spans from now on, if the operator has configured it; for entry points.

    `role` is the process's name in traces, unless `OTEL_SERVICE_NAME` gives another.
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
    """Return whether spans are recorded in this process."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def flush_traces() -> None:
    """Send the recorded spans before a process ends abruptly, within `_FLUSH_SECONDS`."""
    shut_down = getattr(trace.get_tracer_provider(), "shutdown", None)
    if shut_down is not None:
        thread = threading.Thread(target=shut_down, name="excise-traces", daemon=True)
        thread.start()
        thread.join(_FLUSH_SECONDS)


@contextmanager
def continue_trace(
    name: str, traceparent: str | None, kind: SpanKind = SpanKind.INTERNAL, **attributes: str | int
) -> Iterator[None]:
    """Within the context, work belongs to the trace that a row or message names, if any."""
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
    """Within the context, work is a span of its own in the current trace, if there is one."""
    with continue_trace(name, get_traceparent(), SpanKind.INTERNAL, **attributes):
        yield


def get_traceparent() -> str | None:
    """Return the current trace in the form that rows and messages carry; None if there is none."""
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier)
    return carrier.get(HEADER)


def build_trace_headers() -> dict[str, str]:
    """Return the headers that carry the current trace to another server; empty without one."""
    traceparent = get_traceparent()
    return {} if traceparent is None else {HEADER: traceparent}


def describe_trace() -> dict[str, str]:
    """Return the log field of the current trace; empty without one."""
    context = trace.get_current_span().get_span_context()
    return {"trace_id": trace.format_trace_id(context.trace_id)} if context.is_valid else {}
