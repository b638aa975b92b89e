"""The table of all kinds of jobs, and how a worker runs a job or shard of any kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service.jobs.shards import ShardClaim
from workers.kinds.circuit.kind import CIRCUIT
from workers.kinds.compression.kind import COMPRESSION
from workers.kinds.correction.kind import CORRECTION
from workers.kinds.fitting import check_fit
from workers.kinds.kind import Kind
from workers.running.context import (
    JobContext,
    TaskContext,
    poll_cancellation,
)
from workers.running.sharding import complete_shard
from workers.stages.context import InvalidInputError
from workers.stages.packaging import STATUSES

KINDS: dict[str, Kind[Any]] = {
    "correction": CORRECTION,
    "circuit": CIRCUIT,
    "compression": COMPRESSION,
}
"""Every kind of job that this worker can run, by its name in `excise.specs.SPECS`."""


def run_job(context: JobContext) -> None:
    """Run the job's stages, except those already done, and end the job with a verdict.

    Raises `InvalidInputError`, `CancelledJobError`, `LeaseLostError` and the service's errors.
    """
    kind = KINDS[context.spec.kind]
    with _naming_invalid_input(kind):
        check_fit(context)
        report = kind.run(context, context.spec)
        context.finish(STATUSES[report.verdict], report.verdict.value, report.reason)


def run_shard(context: TaskContext, claim: ShardClaim) -> None:
    """Compute one shard of another worker's job and store its result; raises as `run_job` does."""
    kind = KINDS[context.spec.kind]
    assert kind.build_sharded_work is not None  # otherwise there would be no shard
    with _naming_invalid_input(kind):
        data = context.reach(lambda store: store.get(claim.input_sha256))
        work = kind.build_sharded_work(context, context.spec, data)
        complete_shard(context, claim, work, poll_cancellation(context))


@contextmanager
def _naming_invalid_input(kind: Kind[Any]) -> Iterator[None]:
    """Return a context in which errors about the job's input become `InvalidInputError`."""
    try:
        yield
    except kind.invalid_input as error:
        raise InvalidInputError(str(error)) from error
