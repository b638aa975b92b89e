"""The application: routers, error handlers, limits, and the relay that lives beside them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version

from fastapi import FastAPI

from service import health
from service.artifacts import open_artifact_store
from service.broker import Broker
from service.checkpoints import routes as checkpoint_routes
from service.context import AppContext
from service.database import Database
from service.jobs import routes as job_routes
from service.keys import routes as key_routes
from service.middleware import BodyLimits, RequestEnvelope
from service.problems import install_error_handlers
from service.prompt_sets import routes as prompt_set_routes
from service.relay import Relay
from service.settings import Settings
from service.web import routes as web_routes

DESCRIPTION = (
    "Find the few neurons behind a misbehaviour, prune them, prove that nothing else broke. "
    "Errors are application/problem+json; see docs/guides/api.md."
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service over a migrated database; settings come from the environment by default."""
    context = build_context(settings or Settings())
    app = FastAPI(
        title="Excise",
        version=_version(),
        description=DESCRIPTION,
        lifespan=_lifespan,
        redoc_url=None,
    )
    app.state.context = context
    app.add_middleware(BodyLimits, settings=context.settings)
    app.add_middleware(RequestEnvelope)
    install_error_handlers(app)
    for module in (job_routes, prompt_set_routes, checkpoint_routes, key_routes):
        app.include_router(module.router)
    app.include_router(health.router)
    app.include_router(web_routes.router)
    return app


def build_context(settings: Settings) -> AppContext:
    """The resources the settings name; nothing is connected yet."""
    return AppContext(
        settings=settings,
        database=Database(settings.database_url.get_secret_value()),
        artifacts=open_artifact_store(settings.artifacts),
        broker=Broker(settings.broker_url.get_secret_value()),
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Run the relay while the application runs; close everything afterwards."""
    context: AppContext = app.state.context
    relay = Relay(context.database, context.broker, context.settings)
    if context.settings.relay_enabled:
        relay.start()
    try:
        yield
    finally:
        relay.stop()
        context.broker.close()
        context.database.dispose()


def _version() -> str:
    """The installed version, or a placeholder in an uninstalled checkout."""
    try:
        return version("excise")
    except PackageNotFoundError:
        return "0+unknown"
