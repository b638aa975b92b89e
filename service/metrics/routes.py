"""`/metrics`: for Prometheus, with a token or from this machine."""

from __future__ import annotations

import hmac

from fastapi import APIRouter, Request, Response
from fastapi.security.utils import get_authorization_scheme_param
from prometheus_client import CONTENT_TYPE_LATEST

from service.addresses import find_address
from service.context import Context
from service.errors import ForbiddenError, UnauthorizedError
from service.settings import Settings

router = APIRouter(tags=["metrics"])

_FORWARDED = frozenset({"forwarded", "x-forwarded-for", "x-real-ip"})
"""Headers that proxies add."""


@router.get("/metrics", response_class=Response, include_in_schema=False)
def get_metrics(request: Request, context: Context) -> Response:
    """Get this process's counters, and the figures from the database."""
    _check_access(request, context.settings)
    return Response(context.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _check_access(request: Request, settings: Settings) -> None:
    """Raise `UnauthorizedError` or `ForbiddenError` unless the caller may read metrics."""
    if settings.metrics_token is None:
        if not _is_loopback(request):
            raise ForbiddenError(
                "Without EXCISE_METRICS_TOKEN, metrics are only for this machine. Set it, and "
                "send it as a bearer token."
            )
        return
    scheme, shown = get_authorization_scheme_param(request.headers.get("authorization"))
    expected = settings.metrics_token.get_secret_value()
    if scheme.lower() != "bearer" or not hmac.compare_digest(shown.encode(), expected.encode()):
        raise UnauthorizedError("Metrics need EXCISE_METRICS_TOKEN as a bearer token.")


def _is_loopback(request: Request) -> bool:
    """Return whether the request comes from this machine, and through no proxy.

    What comes through one has the address that its sender may have chosen.
    """
    if not _FORWARDED.isdisjoint(request.headers):
        return False
    address = find_address(request.scope)
    return address is not None and address.is_loopback
