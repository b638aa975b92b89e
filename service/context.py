"""The resources of the running application, and how a handler gets them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from anyio import CapacityLimiter
from fastapi import Depends, Request

from service.artifacts import ArtifactStore
from service.broker import Broker
from service.database import Database
from service.gateway.gateway import Gateway
from service.jobs.feed import EventFeed
from service.jobs.pattern_lines import PatternLines
from service.jobs.stream_limits import StreamLimits
from service.metrics.exposition import Exposition
from service.outages import OutageRecord
from service.settings import Settings
from service.tenant_lines import TenantLines
from service.webhooks.lookups import UrlChecks


@dataclass(frozen=True)
class AppContext:
    """The settings and the open resources of one application."""

    settings: Settings
    database: Database
    artifacts: ArtifactStore
    broker: Broker
    gateway: Gateway
    feed: EventFeed
    stream_limits: StreamLimits
    pattern_lines: PatternLines
    upload_lines: TenantLines
    url_checks: UrlChecks
    download_threads: CapacityLimiter
    metrics: Exposition
    outages: OutageRecord


def get_context(request: Request) -> AppContext:
    """Return the context of the application that serves this request."""
    return cast(AppContext, request.app.state.context)


Context = Annotated[AppContext, Depends(get_context)]
