"""`/healthz` and `/readyz`: is the service alive, and can it do its work."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from service.context import AppContext, Context
from service.database import fetch_revisions
from service.models import Worker

logger = logging.getLogger(__name__)
router = APIRouter(tags=["health"])

_ESSENTIAL = ("database", "migrations", "broker")


class Check(BaseModel):
    """Whether one part works."""

    ok: bool
    detail: str


class Health(BaseModel):
    """The process is alive."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Whether jobs can be taken, part by part: database, migrations, broker, workers."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, Check]


@router.get("/healthz")
async def get_health() -> Health:  # waits for no thread, for the database may hold them all
    """Alive."""
    return Health()


@router.get("/readyz", responses={503: {"model": Readiness, "description": "Something is down"}})
def get_readiness(context: Context, response: Response) -> Readiness:
    """Ready to take jobs.

    Silent workers, and rate limits that each process counts by itself, are shown but do not make
    the service unready.
    """
    parts: dict[str, Callable[[AppContext], Check]] = {
        "database": _check_database,
        "migrations": _check_migrations,
        "broker": _check_broker,
        "workers": _check_workers,
        "rate_limits": _check_rate_limits,
    }
    checks = {name: _run(name, check, context) for name, check in parts.items()}
    is_ready = all(checks[name].ok for name in _ESSENTIAL)
    response.status_code = 200 if is_ready else 503
    if not is_ready:
        response.headers["Retry-After"] = "5"
    return Readiness(status="ok" if is_ready else "unavailable", checks=checks)


def count_live_workers(session: Session, silent_seconds: float) -> int:
    """How many workers sent a heartbeat lately."""
    since = func.clock_timestamp() - timedelta(seconds=silent_seconds)
    statement = select(func.count(Worker.id)).where(Worker.heartbeat_at > since)
    return session.execute(statement).scalar_one()


def _run(name: str, check: Callable[[AppContext], Check], context: AppContext) -> Check:
    """The check's result; what it raises goes to the log and not to the client."""
    try:
        return check(context)
    except Exception as error:
        logger.exception("readiness check %s failed", name)
        return Check(ok=False, detail=f"does not answer ({type(error).__name__})")


def _check_database(context: AppContext) -> Check:
    with context.database.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    return Check(ok=True, detail="answers")


def _check_migrations(context: AppContext) -> Check:
    with context.database.engine.connect() as connection:
        current, newest = fetch_revisions(connection)
    if current == newest:
        return Check(ok=True, detail=f"at {current}")
    return Check(ok=False, detail=f"at {current}, needs {newest}; run the migrations")


def _check_broker(context: AppContext) -> Check:
    context.broker.ping()
    return Check(ok=True, detail="answers")


def _check_workers(context: AppContext) -> Check:
    with context.database.transaction() as session:
        count = count_live_workers(session, context.settings.worker_silent_seconds)
    if count:
        return Check(ok=True, detail=f"{count} alive")
    return Check(ok=False, detail="none alive; jobs wait in the queue until a worker starts")


def _check_rate_limits(context: AppContext) -> Check:
    context.broker.ping()
    if context.gateway.limiter.is_shared:
        return Check(ok=True, detail="counted for all API processes together")
    return Check(ok=False, detail="the broker is away; each API process counts by itself")
