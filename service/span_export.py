"""Recording spans and sending them by OTLP; needs the extra `tracing`."""

from __future__ import annotations

import os

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from excise.redaction import redact


class Redaction(SpanProcessor):
    """Redacts secrets in the attributes with which a span starts, such as paths and queries.

    Our own spans carry only ids, and exceptions are not recorded.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        """Redact the attributes."""
        for name, value in dict(span.attributes or {}).items():
            if isinstance(value, str):
                span.set_attribute(name, redact(value))


def build_provider(role: str) -> TracerProvider:
    """Return a provider that records spans and sends them in batches, by the `OTEL_…` variables."""
    name = os.environ.get("OTEL_SERVICE_NAME") or f"excise-{role}"
    provider = TracerProvider(
        resource=Resource.create({SERVICE_NAME: name}),
        shutdown_on_exit=False,  # that waits for long; see flush_traces
    )
    provider.add_span_processor(Redaction())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
