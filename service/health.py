"""`/healthz` and `/readyz`: whether the service is alive, and whether it can do its work."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from excise.plurals import count_noun
from service.context import AppContext, Context
from service.database import fetch_revisions, find_outdated
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


@router.head("/healthz", include_in_schema=False)  # monitors and proxies ask so
@router.get("/healthz")
async def get_health() -> Health:  # needs no thread, as the database may block all of them
    """Alive."""
    return Health()


@router.head("/readyz", include_in_schema=False)
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
    """Return the number of workers with a recent heartbeat."""
    since = func.clock_timestamp() - timedelta(seconds=silent_seconds)
    statement = select(func.count(Worker.id)).where(Worker.heartbeat_at > since)
    return session.execute(statement).scalar_one()


def _run(name: str, check: Callable[[AppContext], Check], context: AppContext) -> Check:
    """Return the check's result; exceptions are not shown to the client.

    Only the first exception of an outage is logged, and its end: probes ask all the time.
    """
    try:
        result = check(context)
    except Exception as error:
        if context.outages.note_failure(name):
            logger.exception("readiness check %s failed", name)
        return Check(ok=False, detail=f"does not answer ({type(error).__name__})")
    if failures := context.outages.note_success(name):
        logger.info(
            "readiness check %s works again, after %s", name, count_noun(failures, "failure")
        )
    return result


def _check_database(context: AppContext) -> Check:
    with context.database.engine.connect() as connection:
        connection.execute(text("SELECT 1"))
    return Check(ok=True, detail="answers")


def _check_migrations(context: AppContext) -> Check:
    with context.database.engine.connect() as connection:
        outdated = find_outdated(connection)
        current, _ = fetch_revisions(connection)
    return Check(ok=outdated is None, detail=outdated or f"at {current}")


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
