"""Check that workers can search with a job's patterns, after everything that costs less."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool

from excise.patterns.searching import Expression
from excise.specs import CorrectionSpec, JobSpec
from excise.specs.behaviours import PhraseSpec
from service.context import AppContext, Context
from service.departures import wait_until_left
from service.jobs import operations
from service.jobs.pattern_lines import FieldPattern
from service.keys.authentication import Submitter
from service.keys.operations import Identity
from service.parameters import IdempotencyKeyHeader


def _list_patterns(spec: JobSpec) -> Iterator[FieldPattern]:
    """Yield the spec's patterns."""
    if not isinstance(spec, CorrectionSpec):
        return
    for index, behaviour in enumerate(spec.behaviours):
        if isinstance(behaviour, PhraseSpec) and behaviour.pattern is not None:
            expression = Expression(behaviour.pattern, behaviour.ignore_case)
            yield FieldPattern(f"behaviours[{index}].pattern", expression)


async def _check_spec(
    request: Request,
    spec: JobSpec,
    context: Context,
    submitter: Submitter,
    idempotency_key: IdempotencyKeyHeader = None,
) -> JobSpec:
    """Return the spec of a permitted caller; its patterns are tried outside the event loop."""
    patterns = list(_list_patterns(spec))
    if not patterns or not await run_in_threadpool(
        _is_acceptable, context, submitter, spec, idempotency_key
    ):
        return spec
    leaving = asyncio.ensure_future(wait_until_left(request))
    try:
        await context.pattern_lines.check(submitter.tenant_id, patterns, leaving.done)
    finally:
        leaving.cancel()
    return spec


def _is_acceptable(
    context: AppContext, submitter: Identity, spec: JobSpec, idempotency_key: str | None
) -> bool:
    """Return whether the spec would be a new job; False if it was submitted before."""
    with context.database.transaction() as session:
        return operations.check_submission(
            session, submitter, spec, context.settings, idempotency_key
        )


CheckedSpec = Annotated[JobSpec, Depends(_check_spec)]
