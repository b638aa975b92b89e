"""The database's tables, one file a noun."""

from service.models.api_keys import ApiKey
from service.models.base import Base, Leased, new_id
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
from service.models.serving import (
    CALLABLE_STATUSES,
    ENDED_STATUSES,
    WANTED_STATUSES,
    Alias,
    ModelVersion,
    PoolState,
    ServingEvent,
    VersionStatus,
)
from service.models.shards import Shard, ShardStatus
from service.models.tenants import Tenant
from service.models.workers import Worker

__all__ = [
    "CALLABLE_STATUSES",
    "ENDED_STATUSES",
    "OPEN_STATUSES",
    "WANTED_STATUSES",
    "Alias",
    "ApiKey",
    "Base",
    "Event",
    "IdempotencyKey",
    "Job",
    "JobArtifact",
    "JobStatus",
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
    "StageStatus",
    "Tenant",
    "VersionStatus",
    "Worker",
    "new_id",
]
