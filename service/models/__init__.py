"""The database's tables, one file a noun."""

from service.models.api_keys import ApiKey
from service.models.audit import AuditEntry
from service.models.base import Base, Leased, new_id
from service.models.idempotency_keys import IdempotencyKey
from service.models.jobs import Event, Job, JobArtifact, Stage, StageResult
from service.models.outbox import OutboxMessage
from service.models.prompt_sets import PromptSet
from service.models.serving import (
    CALLABLE_STATUSES,
    ENDED_STATUSES,
    WANTED_STATUSES,
    Alias,
    ModelVersion,
    PoolState,
    ServingEvent,
)
from service.models.shards import Shard, ShardStatus
from service.models.tenants import Tenant
from service.models.webhooks import Webhook, WebhookDelivery
from service.models.workers import Worker

__all__ = [
    "CALLABLE_STATUSES",
    "ENDED_STATUSES",
    "WANTED_STATUSES",
    "Alias",
    "ApiKey",
    "AuditEntry",
    "Base",
    "Event",
    "IdempotencyKey",
    "Job",
    "JobArtifact",
    "Leased",
    "ModelVersion",
    "OutboxMessage",
    "PoolState",
    "PromptSet",
    "ServingEvent",
    "Shard",
    "ShardStatus",
    "Stage",
    "StageResult",
    "Tenant",
    "Webhook",
    "WebhookDelivery",
    "Worker",
    "new_id",
]
