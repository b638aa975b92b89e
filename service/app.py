"""The application: routers, error handlers, limits, and the relay that runs with it."""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from starlette.concurrency import run_in_threadpool

from excise.installation import __version__
from service import health
from service.artifacts import open_artifact_store
from service.audit import routes as audit_routes
from service.audit.requests import RequestOrigin
from service.broker import Broker
from service.checkpoints import routes as checkpoint_routes
from service.context import AppContext
from service.database import Database
from service.estimates import routes as estimate_routes
from service.gateway import routes as gateway_routes
from service.gateway.gateway import Gateway
from service.jobs import routes as job_routes
from service.jobs.feed import EventFeed
from service.jobs.pattern_lines import PatternLines
from service.jobs.stream_limits import StreamLimits
from service.keys import routes as key_routes
from service.keys.authentication import Authentication
from service.metrics import routes as metrics_routes
from service.metrics.counters import REGISTRY
from service.metrics.database import DatabaseCollector
from service.metrics.exposition import Exposition
from service.metrics.requests import RequestMetrics
from service.metrics.storage import StorageCollector
from service.middleware import BodyLimits, RequestEnvelope
from service.openapi import install_openapi
from service.outages import OutageRecord
from service.problems import install_error_handlers
from service.prompt_sets import routes as prompt_set_routes
from service.relay import Relay
from service.serving import routes as serving_routes
from service.serving.reconciler import Reconciler
from service.settings import Settings, start_process
from service.tenant_lines import TenantLines
from service.tenants import routes as tenant_routes
from service.tracing import flush_traces
from service.web import routes as web_routes
from service.webhooks import routes as webhook_routes
from service.webhooks.deliverer import Deliverer
from service.webhooks.lookups import UrlChecks

UPLOAD_THREADS = 2
"""Prompt sets that a process reads at once; reading one takes up to some seconds of processor time.
Chosen by hand."""

_SWITCH_SECONDS = 0.0005  # a tenth of Python's own

DESCRIPTION = (
    "Find the few neurons behind a misbehaviour, prune them, prove that nothing else broke. "
    "Errors are application/problem+json; see docs/guides/api.md."
)

_TELEMETRY: TelemetryConfig = {
    "metrics": False,  # those are Prometheus's
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,  # see service.tracing
    "exclude": lambda scope: scope["path"] in {"/healthz", "/readyz", "/metrics"},
}
"""What FastAPI records about requests if tracing is configured."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the application, for a migrated database.

    Without `settings` it acts as a process's entry point: settings come from the environment, and
    logging is configured.
    """
    is_process = settings is None
    context = build_context(settings or start_process(Settings, "api"))
    app = FastAPI(
        title="Excise",
        version=__version__,
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,  # FastAPI's own page loads from other hosts; service.web has ours
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat whatever Host the client sent
        generate_unique_id_function=lambda route: route.name,
        telemetry=_TELEMETRY,
    )
    app.state.context = context
    app.add_middleware(BodyLimits, settings=context.settings)
    app.add_middleware(RequestOrigin)  # inside of what finds out
    app.add_middleware(Authentication, context=context)  # before, for it is added after
    app.add_middleware(RequestEnvelope)
    app.add_middleware(RequestMetrics)
    install_error_handlers(app)
    install_openapi(app)
    for module in (
        job_routes,
        estimate_routes,
        prompt_set_routes,
        checkpoint_routes,
        key_routes,
        tenant_routes,
        audit_routes,
    ):
        app.include_router(module.router)
    for serving in (serving_routes, gateway_routes):
        app.include_router(serving.router)
    app.include_router(webhook_routes.router)
    app.include_router(health.router)
    app.include_router(metrics_routes.router)
    app.include_router(web_routes.router)
    if is_process:
        keep_loop_quick()
    return app


def build_context(settings: Settings) -> AppContext:
    """Return the resources that the settings name; nothing is connected yet."""
    database = Database(settings.database_url.get_secret_value())
    broker = Broker(settings.broker_url.get_secret_value())
    gateway = Gateway(database, settings)
    figures = DatabaseCollector(database, broker, settings.worker_silent_seconds)
    storage = StorageCollector(settings.artifacts)
    return AppContext(
        settings=settings,
        database=database,
        artifacts=open_artifact_store(settings.artifacts),
        broker=broker,
        gateway=gateway,
        feed=EventFeed(database, settings.stream_poll_seconds),
        stream_limits=StreamLimits(settings.max_streams, settings.max_streams_per_key),
        pattern_lines=PatternLines(),
        upload_lines=TenantLines(UPLOAD_THREADS, "their prompt sets are read"),
        url_checks=UrlChecks(),
        download_threads=CapacityLimiter(settings.download_threads),
        metrics=Exposition([REGISTRY, gateway.metrics.registry], [figures, storage]),
        outages=OutageRecord(),
    )


def keep_loop_quick() -> None:
    """Keep requests that run in threads from slowing down the event loop.

    A thread that waits for the interpreter gets it after an interval, in no fixed order. So the
    event loop, and with it /healthz, streams and the gateway, waits longer the more threads are
    active; a shorter interval helps. Objects loaded so far are exempted from garbage collection,
    which stops all threads.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run relay and reconciler as long as the application runs; close everything afterwards."""
    context: AppContext = app.state.context
    to_thread.current_default_thread_limiter().total_tokens = context.settings.request_threads
    relay = Relay(context.database, context.broker, context.settings)
    if context.settings.relay_enabled:
        relay.start()
    deliverer = Deliverer(context.database, context.settings)
    if context.settings.relay_enabled:
        deliverer.start()
    reconciler = Reconciler(
        context.database, context.artifacts, context.settings, context.gateway.router.forget
    )
    if context.settings.reconciler_enabled:
        reconciler.start()
    try:
        yield
    finally:
        await run_in_threadpool(reconciler.stop)
        relay.stop()
        await context.feed.aclose()
        context.pattern_lines.close()
        context.upload_lines.close()
        context.url_checks.close()
        await run_in_threadpool(deliverer.stop)
        await context.gateway.aclose()
        context.broker.close()
        context.database.dispose()
        await run_in_threadpool(flush_traces)
