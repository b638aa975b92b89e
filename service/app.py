"""The application: routers, error handlers, limits, and the relay that lives beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
from service.gateway import routes as gateway_routes
from service.gateway.gateway import Gateway
from service.jobs import routes as job_routes
from service.keys import routes as key_routes
from service.keys.authentication import Authentication
from service.metrics import routes as metrics_routes
from service.metrics.counters import REGISTRY
from service.metrics.database import DatabaseCollector
from service.metrics.exposition import Exposition
from service.metrics.requests import RequestMetrics
from service.metrics.storage import StorageCollector
from service.middleware import BodyLimits, RequestEnvelope
from service.problems import install_error_handlers
from service.prompt_sets import routes as prompt_set_routes
from service.relay import Relay
from service.serving import routes as serving_routes
from service.serving.reconciler import Reconciler
from service.settings import Settings, start_process
from service.tracing import flush_traces
from service.web import routes as web_routes

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
"""What FastAPI records of requests, once tracing is configured."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service over a migrated database.

    Without settings it is the entry point of a process: they come from the environment, and its
    logging is configured.
    """
    context = build_context(settings or start_process(Settings, "api"))
    app = FastAPI(
        title="Excise",
        version=__version__,
        description=DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,  # FastAPI's own page loads from other hosts; service.web has ours
        redoc_url=None,
        telemetry=_TELEMETRY,
    )
    app.state.context = context
    app.add_middleware(BodyLimits, settings=context.settings)
    app.add_middleware(RequestOrigin)  # inside of what finds out
    app.add_middleware(Authentication, context=context)  # before, for it is added after
    app.add_middleware(RequestEnvelope)
    app.add_middleware(RequestMetrics)
    install_error_handlers(app)
    for module in (job_routes, prompt_set_routes, checkpoint_routes, key_routes, audit_routes):
        app.include_router(module.router)
    for serving in (serving_routes, gateway_routes):
        app.include_router(serving.router)
    app.include_router(health.router)
    app.include_router(metrics_routes.router)
    app.include_router(web_routes.router)
    return app


def build_context(settings: Settings) -> AppContext:
    """The resources the settings name; nothing is connected yet."""
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
        metrics=Exposition([REGISTRY, gateway.metrics.registry], [figures, storage]),
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run relay and reconciler while the application runs; close everything afterwards."""
    context: AppContext = app.state.context
    relay = Relay(context.database, context.broker, context.settings)
    if context.settings.relay_enabled:
        relay.start()
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
        await context.gateway.aclose()
        context.broker.close()
        context.database.dispose()
        await run_in_threadpool(flush_traces)
