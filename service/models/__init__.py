"""The database's tables, one file a noun."""

from excise.names import OPEN_STATUSES, JobStatus, StageStatus, VersionStatus
from service.models.api_keys import ApiKey
from service.models.base import Base, new_id
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
