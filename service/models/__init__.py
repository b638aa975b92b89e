"""The database's tables, one file a noun."""

from service.models.api_keys import ApiKey
from service.models.base import Base, new_id
from service.models.idempotency_keys import IdempotencyKey
from service.models.jobs import (
    OPEN_STATUSES,
    Event,
    Job,
    JobArtifact,
    JobStatus,
    Stage,
    StageResult,
    StageStatus,
)
from service.models.outbox import OutboxMessage
from service.models.prompt_sets import PromptSet
from service.models.shards import Shard, ShardStatus
from service.models.tenants import Tenant
from service.models.workers import Worker

__all__ = [
    "OPEN_STATUSES",
    "ApiKey",
    "Base",
    "Event",
    "IdempotencyKey",
    "Job",
    "JobArtifact",
    "JobStatus",
    "OutboxMessage",
    "PromptSet",
    "Shard",
    "ShardStatus",
    "Stage",
    "StageResult",
    "StageStatus",
    "Tenant",
    "Worker",
    "new_id",
]
