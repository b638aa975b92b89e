"""`/v1/estimates`."""

from __future__ import annotations

from fastapi import APIRouter

from excise.resources.estimates import EstimateRequest, EstimateView
from service.context import Context
from service.estimates.operations import estimate_request
from service.keys.authentication import Submitter
from service.strict_bodies import StrictJsonRoute

router = APIRouter(prefix="/v1/estimates", tags=["jobs"], route_class=StrictJsonRoute)


@router.post("")
def estimate_job(request: EstimateRequest, context: Context, submitter: Submitter) -> EstimateView:
    """What a correction will take, before it is submitted: memory, disk, minutes, and what would.

    For every kind of machine that workers are alive on, or for the one that is described.
    """
    with context.database.transaction() as session:
        return estimate_request(session, submitter.tenant_id, request, context.settings)
