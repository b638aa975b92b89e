"""The gateway of one application: its routes, connections, limits and counters."""

from __future__ import annotations

from service.database import Database
from service.gateway.cache import ShortCache
from service.gateway.forwarding import Forwarder
from service.gateway.limits import OpenCompletions
from service.gateway.metrics import GatewayMetrics
from service.gateway.routing import Router
from service.gateway.shared_limits import SharedLimiter
from service.gateway.upstream import Upstream
from service.keys.operations import Identity
from service.settings import Settings


class Gateway:
    """What the completion endpoints share; close it with the application."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.router = Router(database, settings.serving_pools, settings.routing_seconds)
        self.metrics = GatewayMetrics()
        self.limiter = SharedLimiter(
            settings.broker_url.get_secret_value(),
            settings.infer_requests_per_minute,
            settings.infer_burst,
        )
        self.identities: ShortCache[Identity] = ShortCache(settings.routing_seconds)
        self._upstream = Upstream(settings.gateway_read_seconds, settings.gateway_answer_seconds)
        limits = OpenCompletions(
            settings.max_completions_per_key, settings.max_completions_per_tenant
        )
        self.forwarder = Forwarder(self.router, self._upstream, self.metrics, limits)

    async def aclose(self) -> None:
        """Close every connection to the model servers and the broker."""
        await self._upstream.aclose()
        await self.limiter.aclose()
